"""A mixture of experts with any number of them."""

from .lbdsl_layers import EXPERTS, config_with, expert_width


class MoePart:
    """The family's router and experts."""

    FIELDS = ("experts", "top_k", "width", "shared")
    CLASS = "moe_class"

    def build(self, moe_class, config, part):
        sizes = {"num_experts_per_tok": part["top_k"], expert_width(config): part["width"]}
        # Classes read one of these names, and a configuration may have the other for the same number.
        own = {name: part["experts"] for name in EXPERTS if hasattr(config, name)}
        return moe_class(config_with(config, {**sizes, **own}))


PART = MoePart()
