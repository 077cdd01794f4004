"""A layer as a typed value made of parts: its specification, the paths that rules can claim, and its new weights."""
