"""Configuration of a Qwen 3 model whose layers differ."""

from transformers import Qwen3Config

from .lbdsl_layers import checked_layers


class LbdslQwen3Config(Qwen3Config):
    """A Qwen3Config with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_qwen3"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "qwen3", self)
