"""The hybrid runtime: models whose layers differ.

The `lbdsl_*.py`, `configuration_*.py` and `modeling_*.py` files are flat: they need only torch and transformers, import
each other relatively, and are copied beside saved weights. What a part's file offers is said in
`lbdsl_part_attention.py`.
"""
