"""Importing this module lets transformers load lbdsl's artifacts without remote code:

    import lbdsl.hf
    model = AutoModelForCausalLM.from_pretrained("artifact")
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from lbdsl.artifact.runtime_files import write_runtime
from lbdsl.model.hybrid.configuration_lbdsl_llama import LbdslLlamaConfig
from lbdsl.model.hybrid.lbdsl_hybrid import HybridCausalLMMixin
from lbdsl.model.hybrid.modeling_lbdsl_llama import LbdslLlamaForCausalLM, LbdslLlamaModel

# A model that was loaded this way and is saved again loads anywhere, too.
HybridCausalLMMixin.after_save = staticmethod(write_runtime)
AutoConfig.register("lbdsl_llama", LbdslLlamaConfig, exist_ok=True)
AutoModel.register(LbdslLlamaConfig, LbdslLlamaModel, exist_ok=True)
AutoModelForCausalLM.register(LbdslLlamaConfig, LbdslLlamaForCausalLM, exist_ok=True)
