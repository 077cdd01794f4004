"""A gated MLP of any width."""

from .lbdsl_layers import config_with


class GatedMlpPart:
    """The family's MLP."""

    FIELDS = ("width",)
    CLASS = "mlp_class"

    def build(self, mlp_class, config, part):
        return mlp_class(config_with(config, {"intermediate_size": part["width"]}))


PART = GatedMlpPart()
