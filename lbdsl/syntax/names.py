"""File names, limits and the words of the language, shared by the stages of the front end."""

from __future__ import annotations

MAX_BYTES = 2 * 1024 * 1024
MAX_TOKENS = 300_000
MAX_RULES = 20_000
MAX_DEPTH = 64
MAX_DIGITS = 18

STATEMENTS = (
    "assert",
    "else",
    "eval",
    "group",
    "heal",
    "highest",
    "include",
    "layers",
    "lbr",
    "let",
    "lowest",
    "measure",
    "modules",
    "param",
    "recipe",
    "requires",
    "search",
    "where",
)
"""The words that begin a statement."""

RULE_WORDS = ("else", "where", "layers", "modules", "lowest", "highest")
BLOCK_WORDS = ("measure", "heal", "eval", "search")
