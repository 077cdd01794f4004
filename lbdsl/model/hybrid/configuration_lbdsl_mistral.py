"""Configuration of a Mistral model whose layers differ."""

from transformers import MistralConfig

from .lbdsl_layers import checked_layers


class LbdslMistralConfig(MistralConfig):
    """A MistralConfig with one more entry, `lbdsl`; see `lbdsl_layers.checked_layers`."""

    model_type = "lbdsl_mistral"

    def __init__(self, lbdsl=None, **kwargs):
        super().__init__(**kwargs)
        self.lbdsl = checked_layers(lbdsl, "mistral", self)
