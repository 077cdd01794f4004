"""Configuration of an Olmo 3 model whose layers differ."""

from transformers import Olmo3Config

from .lbdsl_layers import checked_layers


class LbdslOlmo3Config(Olmo3Config):
    """An Olmo3Config with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_olmo3"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "olmo3", self)
