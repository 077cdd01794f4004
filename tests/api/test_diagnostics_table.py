"""The table of bad recipes and ideal messages in the design of the language, row by row."""

from __future__ import annotations

import re

import pytest

from lbdsl.api.checking import check_recipe
from lbdsl.api.explaining import EXAMPLE_MODEL, text_findings
from lbdsl.core.diagnostic import Diagnostic

ROWS = [
    # recipe, code, a part of the message, parts of the help, what the fix makes of it
    ("layres 5 drop", "LB001", "unknown statement `layres`", ["`layers`"], "layers 5 drop"),
    ("layers 4- keep", "LB009", "range has no end", ["`4-29`", "the model has 30 layers", "`last 26`"], None),
    ("layers 0:4 keep", "LB010", "written with `-`, not `:`", ["`0:4` is `0-3`"], "layers 0-3 keep"),
    ("layers 0-3", "LB016", "selector has no action", ["`keep`", "`drop`", "`swa`"], None),
    ("layers 5 swa(window=512\nheal { }", "LB002", "`(` never closed", [], None),
    ("where sensitivity < drop", "LB012", "the right side of `<` is missing", ["where CONDITION ACTION"], None),
    ("lowest 30% sensitivity drop", "LB013", "expected `by`", [], "lowest 30% by sensitivity drop"),
    ("heal { tokens == 3 }", "LB011", "expected `=`, not `==`", [], "heal { tokens = 3 }"),
    ("layers 8 else", "LB015", "`else` is a keyword, not an action", [], None),
    (
        "where sensitvity < 0.1 drop",
        "LB102",
        "no metric `sensitvity`",
        ["`sensitivity`", "`nll`", "`kl`", "`influence`"],
        "where sensitivity < 0.1 drop",
    ),
    (
        "else swa(windw=512)",
        "LB103",
        "`swa` has no parameter `windw`",
        ["`window`", "`swa(window, sinks=0, full_heads=0)`"],
        "else swa(window=512)",
    ),
    ("else swa(window=4k)", "LB119", "`4k` is 4000 tokens", ["`4Ki`"], None),
    ("where ppl_increase<5% drop", "LB108", "known only after healing", ["move it to `assert`"], None),
    ("assert sensitivity < 0.1", "LB109", "is a value of one layer; expected a value of the whole model", ["`nll`"], None),
    ("layers 20-40 drop", "LB300", "layers 30-40 do not exist", ["`20-29`"], None),
    ("else keep\nlayers 3 drop", "LB201", "unreachable", ["above `else`"], "layers 3 drop\nelse keep"),
    ("layers 0-9 keep\nlayers 2-4 drop", "LB202", "shadowed: 3 of 3 claimed by rule 1", [], None),
    (
        'modules "*.kproj" quantize(bits=4)',
        "LB218",
        "matches 0 of 210 modules",
        ["`*.k_proj`"],
        'modules "*.k_proj" quantize(bits=4)',
    ),
    ("layers 3 keep + drop", "LB204", "`keep` combines with nothing", [], None),
    ("where a<0.1 ? drop", "LB008", "unexpected `?`", ["where CONDITION ACTION"], None),
    ('include "../../etc/x"', "LB126", "leaves the recipe's directory", [], None),
    ("layers " + "(" * 1000 + "0" + ")" * 1000 + " keep", "LB005", "nesting deeper than 64", [], None),
    ('modules ~"(a)\\1" quantize(bits=4)', "LB122", "back-references are not supported", ["linear time"], None),
]


def edited(text: str, found: Diagnostic) -> str:
    assert found.fix is not None
    for edit in sorted(found.fix.edits, key=lambda edit: edit.span.start, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text


@pytest.mark.parametrize(("text", "code", "message", "help", "fixed"), ROWS, ids=lambda value: str(value)[:30])
def test_row(text: str, code: str, message: str, help: list[str], fixed: str | None) -> None:
    found = next(d for d in check_recipe(text, facts=EXAMPLE_MODEL).diagnostics if d.code == code)
    assert message in found.message
    said = "\n".join(found.help)
    for part in help:
        assert part in said
    assert found.span is not None
    if fixed is not None:
        assert edited(text, found) == fixed


def test_carets_of_the_rows_that_name_them() -> None:
    bracket = check_recipe("layers 5 swa(window=512\nheal { }").diagnostics[0]
    assert bracket.span is not None
    assert bracket.span.start_line_column == (1, 13)
    swapped = next(d for d in check_recipe("else keep\nlayers 3 drop").diagnostics if d.code == "LB201")
    assert [label.span.text for label in swapped.labels] == ["else keep"]
    right = check_recipe("where sensitivity < drop").diagnostics[0]
    assert [label.text for label in right.labels] == ["`drop` is an action, not a value"]


def test_until_that_cannot_be_met_names_best_value_and_rule() -> None:
    text = "group @core = first 2, last 1\nlayers @core keep\nlowest by kl until kv(32Ki)<=1% swa(window=512)"
    found = next(d for d in text_findings(text) if d.code == "LB312")
    assert "cannot be met" in found.message
    assert re.search(r"the best is \d+\.\d %, with 27 layers", found.help[0])
    assert "`layers @core keep`" in found.help[1]
    assert found.exit_code == 5
