"""Size limits of a recipe, so that a hostile one cannot stall the engine."""

from __future__ import annotations

from lbdsl.core.units import MAX_DIGITS as MAX_DIGITS

MAX_BYTES = 2 * 1024 * 1024
MAX_TOKENS = 300_000
MAX_RULES = 20_000
MAX_DEPTH = 64
