"""Configuration of a Gemma 3 model whose layers differ."""

from transformers import Gemma3TextConfig

from .lbdsl_layers import checked_layers


class LbdslGemma3Config(Gemma3TextConfig):
    """A Gemma3TextConfig with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_gemma3_text"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "gemma3_text", self)
