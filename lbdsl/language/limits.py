"""What a recipe may hold at most, so that a hostile one does not hold up the engine."""

from __future__ import annotations

MAX_BYTES = 2 * 1024 * 1024
MAX_TOKENS = 300_000
MAX_RULES = 20_000
MAX_DEPTH = 64
MAX_DIGITS = 18
