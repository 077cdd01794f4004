"""LB2xx, rules against each other."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = ()
