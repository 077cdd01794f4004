"""LB4xx, models, data, files and artifacts."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

CODES = ()
