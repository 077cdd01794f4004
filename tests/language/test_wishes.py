"""What users may wish for and the language does not have: `check --fix` leaves it as it is, and help says so."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from lbdsl.actions import actions
from lbdsl.api.fixing import fix_text
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.nearest import slip
from lbdsl.language.words import statements, wish, wishes
from lbdsl.metrics import metrics
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.settings import SETTINGS

WISHES = dict(
    re.findall(
        r"^## (.+?)\n\n```lbr\n(.*?)^```\n",
        (Path(__file__).parents[1] / "spec" / "wishes.md").read_text(encoding="utf-8"),
        re.M | re.S,
    )
)
FORMS = [
    # Two readings each: help only.
    "layers 0-3 & 5 drop",
    "group @ends = first 2 & last 2",
    "assert ppl_increase < 2",
    "assert kv(8Ki) <= 1",
    "heal { tokens = 200,000 }",
    "else swa(window=4k)",
    "let $w = 1024 // 2",
    "lowest 3 by influence(swa(window=64)) drop",
    "assert ppl_increase(8Ki) < 5%",
    "assert params(mlp) < 50%",
    "assert nll(swa(window=64)) < 0.1",
    "assert sensitivity < 0.1",
    "assert ppl_increase < 1.5",
    "layers 0-9 drop where nll < 0.1",
    "layers @a @b drop",
    "/* a note */ layers 0-3 keep",
    "where nll < 0.1 or kl < 0.1) and influence < 0.1 drop",
    "layers0-3 keep",
    "requires layer.heads == 9",
    "layers least 4 drop",
]
SLIPS = {
    "layres 0-3 keep": "layers 0-3 keep",
    "layers 0-3 kep": "layers 0-3 keep",
    "layers 0-3 quantise(bits=4)": "layers 0-3 quantize(bits=4)",
    "else swa(windw=512)": "else swa(window=512)",
    "else swa(window=512))": "else swa(window=512)",
    "assert flop(8Ki) <= 50%": "assert flops(8Ki) <= 50%",
    "requires modle.layer >= 2": "requires model.layers >= 2",
    "heal { method = lorra }": "heal { method = lora }",
    "layers 0:4 keep": "layers 0-3 keep",
    "layers 0-3 5 keep": "layers 0-3, 5 keep",
    "all keep": "layers all keep",
    "@core = first 2": "group @core = first 2",
    "$w = 512": "let $w = 512",
    "let $w := 512": "let $w = 512",
    "heal { method := lora }": "heal { method = lora }",
    "layers -1 keep": "layers last 1 keep",
    "layers 0-3 keep // note": "layers 0-3 keep # note",
    "layers 0-3 drop else keep": "layers 0-3 drop ; else keep",
}


def found(text: str) -> tuple[Diagnostic, ...]:
    return recipe_from_text(text).diagnostics


@pytest.mark.parametrize("title", WISHES)
def test_no_fix_changes_a_wish(title: str) -> None:
    text = WISHES[title]
    assert fix_text(text, found).text == text
    assert not any(d.fix for d in found(text))
    assert any(d.is_error and d.help for d in found(text))


@pytest.mark.parametrize("text", FORMS)
def test_no_fix_where_there_are_two_readings(text: str) -> None:
    assert fix_text(text, found).text == text


@pytest.mark.parametrize("text", SLIPS)
def test_slips_and_forms_with_one_reading_are_fixed(text: str) -> None:
    assert fix_text(text, found).text == SLIPS[text]


def test_there_are_enough() -> None:
    assert len(WISHES) >= 40


def test_each_word_is_said_once_and_is_not_in_the_language() -> None:
    words = [(where, word) for where, rows in wishes().items() for said in rows for word in said.split()]
    assert [item for item, times in Counter(words).items() if times > 1] == []
    known = {"action": actions(), "score": metrics(), "statement": statements()}
    for where, names in known.items():
        assert [word for place, word in words if place == where and word in names] == []
    settings = {key for rows in SETTINGS.values() for key in rows}
    assert [word for place, word in words if place == "setting" and word in settings] == []
    assert wish("AWQ", "action") == wish("awq", "choice") is not None


def test_slip() -> None:
    assert slip("sensitvity", ["nll", "sensitivity"]) == "sensitivity"
    assert slip("adn", ["and", "all"]) == "and"
    assert slip("*.kproj", ["*.q_proj", "*.k_proj"]) == "*.k_proj"
    assert slip("Window", ["window"]) == "window"
    assert slip("", ["w"]) is None
    for typed, other in [
        ("kv_quantize", "quantize"),
        ("quantize_kv", "quantize"),
        ("dequantize", "quantize"),
        ("type", "dtype"),
        ("rope", "drop"),
        ("qlora", "lora"),
        ("kd", "kl"),
        ("is", "in"),
        ("even", "every"),
        ("layers0", "layers"),
        ("ppl_decrease", "ppl_increase"),
        ("sens", "sensitivity"),
    ]:
        assert slip(typed, [other]) is None, typed
    assert slip("manimize", ["minimize", "maximize"]) is None
    assert slip("x" * 100_000, ["nll"]) is None
