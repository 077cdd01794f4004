"""Importing this module lets transformers load lbdsl's artifacts without remote code:

import lbdsl.hf
model = AutoModelForCausalLM.from_pretrained("artifact")
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from lbdsl.artifact.runtime_files import write_runtime
from lbdsl.families import ARTIFACT_PREFIX, FAMILIES
from lbdsl.model.hybrid.lbdsl_hybrid import HybridCausalLMMixin
from lbdsl.model.runtime import hybrid_classes

# save_pretrained then also writes the runtime's code, so that the saved model loads without lbdsl.
HybridCausalLMMixin.after_save = staticmethod(write_runtime)
for _family in FAMILIES:
    _classes = hybrid_classes(_family)
    AutoConfig.register(ARTIFACT_PREFIX + _family, _classes.config, exist_ok=True)
    AutoModel.register(_classes.config, _classes.body, exist_ok=True)
    AutoModelForCausalLM.register(_classes.config, _classes.causal_lm, exist_ok=True)
