"""A layer as a typed value made of parts: its specification, its costs, and the paths that rules can claim."""
