"""LB3xx, a recipe against a model, its measurements and saved plans."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = ()
