"""An example for every keyword of the language."""

from __future__ import annotations

from collections.abc import Mapping

_SEARCH = "search { vary $window in 64..1Ki; minimize ppl_increase; subject to kv(32Ki) <= 25% }"

KEYWORD_EXAMPLES: Mapping[str, str] = {
    "all": "layers all except 0, 29 keep",
    "and": "where nll < 0.1 and kl < 0.2 drop",
    "assert": "assert kv(32Ki) <= 50%",
    "because": 'layers first 2 keep because "attention sinks form here"',
    "by": "lowest 8 by sensitivity drop",
    "else": "else swa(window=512)",
    "eval": "eval { tokens = 16Ki; seq = 2Ki }",
    "every": "layers every 4 from 1 keep",
    "except": "layers 0-9 except 3 keep",
    "first": "layers first 2, last 1 keep",
    "from": "layers every 4 from 1 keep",
    "group": "group @core = first 2, last 1",
    "heal": "heal { tokens = 200k; method = lora(rank=16) }",
    "highest": "highest 20% by kl keep",
    "in": 'requires model.family in ["llama", "qwen3"]',
    "include": 'include "core.lbr"',
    "last": "layers last 10% keep",
    "layers": "layers 0-3, 8 keep",
    "lbr": "lbr 1",
    "let": "let $limit = 0.1",
    "lowest": "lowest 8 by sensitivity drop",
    "matches": 'requires model.family matches ~"qwen.*"',
    "maximize": "search { vary $window in 64..1Ki; maximize agreement }",
    "measure": 'measure { metric = kl; data = "builtin:pydoc"; tokens = 8Ki }',
    "middle": "layers middle 6 drop",
    "minimize": _SEARCH,
    "modules": 'modules "*.k_proj" in layers 0-9 quantize(bits=4)',
    "not": "layers not (0-3) drop",
    "of": "lowest 8 of rest by nll drop",
    "or": "where nll < 0.01 or kl < 0.01 drop",
    "param": "param $window: tokens in 64..8Ki = 256",
    "recipe": 'recipe "half-the-cache"',
    "requires": "requires model.layers >= 24",
    "rest": "lowest 8 of rest by nll drop",
    "search": _SEARCH,
    "sha256": 'include "core.lbr" sha256 "9f86d081..."',
    "subject": _SEARCH,
    "to": _SEARCH,
    "until": "lowest of rest by nll until kv(32Ki) <= 50% drop",
    "vary": _SEARCH,
    "where": "where sensitivity < 0.1 drop",
}
"""Keyword -> a statement with it. A test holds it in step with the grammar, and parses each."""
