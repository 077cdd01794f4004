"""Configuration of a Qwen 2 model whose layers differ."""

from transformers import Qwen2Config

from .lbdsl_layers import checked_layers


class LbdslQwen2Config(Qwen2Config):
    """A Qwen2Config with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_qwen2"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "qwen2", self)
