"""Configuration of a Llama model whose layers differ."""

from transformers import LlamaConfig

from .lbdsl_layers import checked_layers


class LbdslLlamaConfig(LlamaConfig):
    """A LlamaConfig with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_llama"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "llama", self)
