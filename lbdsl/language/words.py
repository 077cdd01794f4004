"""The words of the language: the one table that lexer, messages, colours, completion, hover, `explain` and docs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Keyword(NamedTuple):
    """A reserved word; its terminal in the grammar is the word in capitals. `form` is that of the statement that it begins,
    `snippet` what completion writes for it."""

    meaning: str
    example: str
    form: str = ""
    snippet: str = ""


_CHOOSE = "choose for layers all among keep, swa(window=256), drop minimizing kl subject to kv(32Ki) <= 40%"
_CHOOSE_FORM = "choose for layers SET among ACTION, ... minimizing METRIC subject to CONDITION, ..."

KEYWORDS: Mapping[str, Keyword] = {
    "all": Keyword("Every layer.", "layers all except 0, 29 keep"),
    "among": Keyword("The actions that `choose` may give a layer, one each; not in this version.", _CHOOSE),
    "and": Keyword("Both must hold; between sets, the layers in both.", "where nll < 0.1 and kl < 0.2 drop"),
    "assert": Keyword(
        "A gate: a cost is judged by `plan`, the quality of the healed model before it is saved.",
        "assert kv(32Ki) <= 50%",
        "assert CONDITION",
    ),
    "because": Keyword(
        "Why the rule is there; plans and reports show it.",
        'layers first 2 keep because "attention sinks form here"',
    ),
    "by": Keyword("The metric that layers are ranked by.", "lowest 8 by sensitivity drop"),
    "choose": Keyword("The best actions within a budget; not in this version.", _CHOOSE, _CHOOSE_FORM),
    "else": Keyword("Every layer that the rules above leave; it stands last.", "else swa(window=512)", "else ACTION"),
    "eval": Keyword(
        "How the finished model is judged.",
        "eval { tokens = 16Ki; seq = 2Ki }",
        "eval { KEY = VALUE; ... }",
        "eval { ${0} }",
    ),
    "every": Keyword("Every n-th layer, as in `every 4 from 1`.", "layers every 4 from 1 keep"),
    "except": Keyword("Takes layers out of a set: `all except 0, 29`.", "layers 0-9 except 3 keep"),
    "first": Keyword("The first layers, as a number or a share.", "layers first 2, last 1 keep"),
    "for": Keyword("`choose for layers`: the layers that get an action; not in this version.", _CHOOSE),
    "from": Keyword("Where counting begins, as in `every 4 from 1`.", "layers every 4 from 1 keep"),
    "group": Keyword(
        "Names a set of layers.",
        "group @core = first 2, last 1",
        "group @NAME = SET",
        "group @${1:name} = ${2:first 2, last 1}",
    ),
    "heal": Keyword(
        "How the changed model is trained to be like its base again.",
        "heal { tokens = 200k; method = lora(rank=16) }",
        "heal { KEY = VALUE; ... }",
        "heal { ${0} }",
    ),
    "highest": Keyword(
        "The layers with the highest scores.",
        "highest 20% by kl keep",
        "highest AMOUNT [of rest] by METRIC [until CONDITION] ACTION",
    ),
    "in": Keyword(
        "Is one of a list; after `param`, the values that a parameter may have.",
        'requires model.family in ["llama", "qwen3"]',
    ),
    "include": Keyword(
        "Takes the statements of another file beside this one.",
        'include "core.lbr"',
        'include "FILE" [sha256 "HASH"]',
        'include "${1:file.lbr}"',
    ),
    "last": Keyword("The last layers, as a number or a share.", "layers last 10% keep"),
    "layers": Keyword(
        "A rule about the named layers. Ranges hold both ends and count from 0.",
        "layers 0-3, 8 keep",
        "layers SET [where CONDITION] ACTION",
    ),
    "lbr": Keyword("The version of the language.", "lbr 1", "lbr 1", "lbr 1"),
    "let": Keyword("Names a value.", "let $limit = 0.1", "let $NAME = VALUE", "let \\$${1:name} = ${2:0}"),
    "lowest": Keyword(
        "The layers with the lowest scores.",
        "lowest 8 by sensitivity drop",
        "lowest AMOUNT [of rest] by METRIC [until CONDITION] ACTION",
    ),
    "matches": Keyword("The text matches a regular expression.", 'requires model.family matches ~"qwen.*"'),
    "measure": Keyword(
        "How layers are measured: metric, text, tokens.",
        'measure { metric = kl; data = "builtin:pydoc"; tokens = 8Ki }',
        "measure { KEY = VALUE; ... }",
        "measure { ${0} }",
    ),
    "middle": Keyword("The layers in the middle, as a number or a share.", "layers middle 6 drop"),
    "minimizing": Keyword("What `choose` makes as small as it can; not in this version.", _CHOOSE),
    "modules": Keyword(
        "A rule about the modules that a pattern names.",
        'modules "*.k_proj" in layers 0-9 quantize(bits=4)',
        'modules "GLOB" [in layers SET] [where CONDITION] ACTION',
    ),
    "not": Keyword("Does not hold; before a set, the layers outside it.", "layers not (0-3) drop"),
    "of": Keyword("`of rest`: only layers that no rule above has claimed.", "lowest 8 of rest by nll drop"),
    "or": Keyword("One must hold; between sets, the layers in either.", "where nll < 0.01 or kl < 0.01 drop"),
    "param": Keyword(
        "A value that `--set` can change.",
        "param $window: tokens in 64..8Ki = 256",
        "param $NAME: TYPE [in LOW..HIGH] [= DEFAULT]",
        "param \\$${1:name}: ${2:tokens} = ${3:256}",
    ),
    "recipe": Keyword("The recipe's name.", 'recipe "half-the-cache"', 'recipe "NAME"', 'recipe "${1:name}"'),
    "requires": Keyword("What a model must be for this recipe.", "requires model.layers >= 24", "requires CONDITION"),
    "rest": Keyword("`of rest`: only layers that no rule above has claimed.", "lowest 8 of rest by nll drop"),
    "sha256": Keyword("The hash that the included file must have.", 'include "core.lbr" sha256 "9f86d081..."'),
    "stage": Keyword(
        "A part of healing with settings of its own; not in this version.", "heal { stage distill { tokens = 50k } }"
    ),
    "subject": Keyword("`subject to`: the budgets of `choose`, for the whole plan; not in this version.", _CHOOSE),
    "to": Keyword("`subject to`: the budgets of `choose`, for the whole plan; not in this version.", _CHOOSE),
    "until": Keyword(
        "As few layers as make this hold for the whole plan.",
        "lowest of rest by nll until kv(32Ki) <= 50% drop",
    ),
    "where": Keyword(
        "A rule about the layers at which a condition holds.",
        "where sensitivity < 0.1 drop",
        "where CONDITION ACTION",
    ),
    "while": Keyword("As many layers as keep this true; not in this version.", "lowest by nll while nll <= 0.05 drop"),
}

PLANNED = frozenset({"among", "choose", "for", "minimizing", "stage", "subject", "to", "while"})
"""Words of forms that are read and refused (`lbdsl.language.planned`). Nobody is told to write them."""

STATEMENTS = tuple(word for word, keyword in KEYWORDS.items() if keyword.form and word not in PLANNED)
"""The words that begin a statement."""

BLOCKS = ("measure", "heal", "eval")
RULES = ("else", "where", "layers", "modules", "lowest", "highest")
OPERATORS = frozenset({"and", "or", "not", "in", "matches", "except"})

REMOVED: Mapping[str, str] = dict.fromkeys(
    ("search", "tune"),
    "`--set NAME=VALUE` tries another value of a parameter; `choose`, which finds the best plan for a budget, and "
    "`--sweep`, which tries several values, are planned and not in this version",
)
"""Words that once began a statement or a command, and what takes their place."""
