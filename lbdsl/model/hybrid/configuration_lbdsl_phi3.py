"""Configuration of a Phi-3 model whose layers differ."""

from transformers import Phi3Config

from .lbdsl_layers import checked_layers


class LbdslPhi3Config(Phi3Config):
    """A Phi3Config with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_phi3"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "phi3", self)
