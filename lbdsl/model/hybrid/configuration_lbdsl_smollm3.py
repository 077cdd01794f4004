"""Configuration of a SmolLM3 model whose layers differ."""

from transformers import SmolLM3Config

from .lbdsl_layers import checked_layers


class LbdslSmolLM3Config(SmolLM3Config):
    """A SmolLM3Config with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_smollm3"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "smollm3", self)
