"""Configuration of a Gemma 2 model whose layers differ."""

from transformers import Gemma2Config

from .lbdsl_layers import checked_layers


class LbdslGemma2Config(Gemma2Config):
    """A Gemma2Config with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_gemma2"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "gemma2", self)
