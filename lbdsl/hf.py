"""Importing this module lets transformers load lbdsl's artifacts without remote code:

    import lbdsl.hf
    model = AutoModelForCausalLM.from_pretrained("artifact")
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from lbdsl.model.hybrid.configuration_lbdsl_llama import LbdslLlamaConfig
from lbdsl.model.hybrid.modeling_lbdsl_llama import LbdslLlamaForCausalLM, LbdslLlamaModel

AutoConfig.register("lbdsl_llama", LbdslLlamaConfig, exist_ok=True)
AutoModel.register(LbdslLlamaConfig, LbdslLlamaModel, exist_ok=True)
AutoModelForCausalLM.register(LbdslLlamaConfig, LbdslLlamaForCausalLM, exist_ok=True)
