"""A layer as a typed value of parts: what it is, what it costs, and what can be claimed of it."""
