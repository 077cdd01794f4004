"""The hybrid runtime: models whose layers differ in their attention.

The `lbdsl_*.py`, `configuration_*.py` and `modeling_*.py` files are flat: they need only torch and transformers, import
each other relatively, and are copied beside saved weights. What a mixer file offers is said in `lbdsl_mixer_full.py`.
"""
