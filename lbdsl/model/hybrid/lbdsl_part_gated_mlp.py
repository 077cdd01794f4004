"""A gated MLP of any width."""

from inspect import signature

from .lbdsl_layers import config_with


class GatedMlpPart:
    """The family's MLP."""

    FIELDS = ("width",)
    CLASS = "mlp_class"

    def build(self, mlp_class, config, part):
        # Some take the width beside the configuration.
        width = {"intermediate_size": part["width"]}
        beside = width if "intermediate_size" in signature(mlp_class).parameters else {}
        return mlp_class(config_with(config, width), **beside)


PART = GatedMlpPart()
