"""LB2xx, rules against each other."""

from __future__ import annotations

from lbdsl.core.codes.code import Code

_DOUBLING = "\n".join(["group @g0 = 0, 2", *(f"group @g{i + 1} = @g{i}, @g{i}" for i in range(13)), "layers @g13 keep"])

CODES = (
    Code(
        "LB201",
        "unreachable rule",
        "`else` claims every layer that is left, so nothing after it can match.",
        "else keep\nlayers 3 drop",
        fixed="layers 3 drop\nelse keep",
    ),
    Code(
        "LB202",
        "shadowed rule",
        "The first rule that matches a layer claims it; these layers are claimed above.",
        "layers 0-9 keep\nlayers 2-4 drop",
        fixed="layers 2-4 drop\nlayers 0-9 keep",
    ),
    Code(
        "LB203",
        "actions conflict",
        "Two actions of one rule may not claim the same part of a layer.",
        "layers 3 drop + swa(window=64)",
        fixed="layers 3 drop(mlp) + swa(window=64)",
    ),
    Code(
        "LB204",
        "`keep` combined",
        "`keep` without an argument leaves the whole layer alone, so nothing can stand beside it.",
        "layers 3 keep + drop",
        fixed="layers 3 drop",
    ),
    Code(
        "LB205",
        "reversed range",
        "A range runs upwards; it is never turned round or clamped.",
        "layers 7-4 keep",
        fixed="layers 4-7 keep",
    ),
    Code(
        "LB206",
        "no `else`",
        "Layers that no rule claims are kept; an `else` rule says so.",
        "layers 3 drop",
        fixed="layers 3 drop\nelse keep",
    ),
    Code(
        "LB207",
        "no healing",
        "Changing layers costs quality; a `heal` block wins much of it back.",
        "else drop",
        fixed="else drop\nheal { tokens = 200k }",
    ),
    Code(
        "LB208",
        "no gate",
        "Without an `assert` the result is saved however bad it is.",
        "else drop",
        fixed="else drop\nassert ppl_increase < 5%",
    ),
    Code(
        "LB209",
        "no rules",
        "A recipe without rules changes nothing.",
        'recipe "empty"',
        fixed='recipe "first"\nlayers 0-3 keep',
    ),
    Code(
        "LB210",
        "never used",
        "A definition that nothing uses is mostly a misspelling.",
        "let $a = 1\nelse keep",
        fixed="let $a = 1\nlayers $a drop\nelse keep",
    ),
    Code(
        "LB211",
        "amount of layers out of range",
        "A share is at most 100 %, a count is whole, a step is at least 1.",
        "lowest 120% by nll drop",
        fixed="lowest 20% by nll drop",
    ),
    Code(
        "LB212",
        "groups too large",
        "Groups of groups may grow without bound; a limit keeps planning quick.",
        _DOUBLING,
        fixed="layers 0, 2 keep",
    ),
    Code(
        "LB213",
        "statement given twice",
        "The second would silently replace the first.",
        "heal { tokens = 1k }\nheal { tokens = 2k }",
        fixed="heal { tokens = 2k }",
    ),
)
