"""LB1xx, names, types, units and phases."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = ()
