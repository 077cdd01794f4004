"""LB0xx, the text does not parse."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = ()
