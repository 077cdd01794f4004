"""Hover, names, outline and hints, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbdsl.editor.analysis import Analysis
from lbdsl.editor.documents import Text
from lbdsl.editor.edits import definition_of, formatting, rename, uses_of
from lbdsl.editor.hints import claim_hints
from lbdsl.editor.hover import hover
from lbdsl.editor.outline import outline
from tests.plan_cases import smollm2_facts

TEXT = """\
lbr 1
recipe "half 😀"
param $window: tokens in 64..8Ki = 256
let $half = $window / 2
group @core = first 2, last 1
measure { metric = kl; tokens = 8Ki }
layers @core keep because "the ends"
lowest 6 by sensitivity drop(mlp)
where kl(swa(window=$half)) < 5% and model.layers > 4 swa(window=$window, sinks=4)
else keep
heal { loss = kl + 0.1 * hidden; method = lora(rank=8) }
assert kv(32Ki) <= 50%
"""


def page(word: str, text: str = TEXT, *, nth: int = 0, facts: object = None) -> str:
    offset = -1
    for _ in range(nth + 1):
        offset = text.index(word, offset + 1)
    found = hover(Analysis(text, facts=facts), offset + 1)  # type: ignore[arg-type]
    return "" if found is None else found.page


@pytest.mark.parametrize(
    ("word", "nth", "said"),
    [
        ("swa(", 1, "Causal softmax attention over the last `window` tokens"),
        (
            "sinks",
            0,
            "`sinks` of `swa(window, sinks=0, full_heads=0)`: at most 4096, or `learned`, in tokens, `0` unless given",
        ),
        ("window=", 0, "at least 1"),
        ("mlp", 0, "one of `attention`, `mlp`, `block`"),
        ("sensitivity", 0, "here `kl(drop)`"),
        ("kl(", 0, "KL(base || changed)"),
        ("$window", 1, "Default: 256"),
        ("$half", 0, "128"),
        ("@core", 1, "first 2, last 1"),
        ("tokens in", 0, "a number of tokens"),
        ("tokens = 8Ki", 0, "tokens of calibration text"),
        ("8Ki }", 0, "8 192"),
        ("50%", 0, "0.5"),
        ("kv(", 0, "Bytes of keys and values"),
        ("hidden", 0, "hidden states"),
        ("rank", 0, "low-rank"),
        ("lora", 0, "low-rank"),
        ("method", 0, "`lora(rank=16, alpha=32)`, `full`, or `sinks`"),
        ("model.layers", 0, "a fact of the model"),
        ("else", 0, "it stands last"),
        ("lowest", 0, "lowest [AMOUNT]"),
        ("because", 0, "Why the rule is there"),
    ],
)
def test_hover(word: str, nth: int, said: str) -> None:
    assert said in page(word, nth=nth)


def test_hover_says_nothing_where_there_is_nothing() -> None:
    assert page("😀") == ""
    assert page("# x", "else keep # x") == ""
    assert hover(Analysis(""), 0) is None


def test_hover_gives_the_reason_of_a_finding() -> None:
    said = page("sensitvity", "where sensitvity < 0.1 drop\nelse keep")
    assert "**LB102**" in said
    assert "lbdsl explain LB102" in said


def test_hover_shows_a_let_that_a_model_decides_as_it_is_written() -> None:
    assert "model.layers / 2" in page("$half", "let $half = model.layers / 2\nrequires $half > 4\nelse keep")


def test_hover_knows_the_model() -> None:
    facts = smollm2_facts()
    assert "3 layers of this model: 0-1, 29." in page("@core", facts=facts)
    assert "30 in this model" in page("model.layers", facts=facts)
    assert "23040 in this model" in page(
        "model.kv_bytes_per_token", "requires model.kv_bytes_per_token < 1MiB", facts=facts
    )
    assert "in this model" not in page("model.dtype_bytes", "requires model.dtype_bytes < 4", facts=facts)


def test_definition_and_uses_also_in_a_broken_recipe() -> None:
    text = "param $w: tokens = 3\nlayers ?? $w keep\nelse swa(window=$w)\n# $w\n"
    analysis = Analysis(text)
    span = definition_of(analysis, text.index("$w)"))
    assert span is not None
    assert span.start == text.index("$w")
    assert [token.start for token in uses_of(analysis, text.index("$w"))] == [6, text.index("$w k"), text.index("$w)")]
    assert definition_of(analysis, text.index("keep")) is None


def test_definition_in_an_included_file(tmp_path: Path) -> None:
    (tmp_path / "common.lbr").write_text("let $w = 64\n", encoding="utf-8")
    text = 'include "common.lbr"\nelse swa(window=$w)\n'
    path = tmp_path / "a.lbr"
    analysis = Analysis(text, str(path), path)
    span = definition_of(analysis, text.index("$w"))
    assert span is not None
    assert span.source.name == str(tmp_path / "common.lbr")
    assert "64" in page_at(analysis, text.index("$w"))
    assert [d.code for d in rename(analysis, text.index("$w"), "x").diagnostics] == ["LB060"]


def test_findings_of_included_files_are_shown_at_their_include(tmp_path: Path) -> None:
    pytest.importorskip("lsprotocol")
    from lbdsl.editor.protocol import Document, diagnostics

    for name, text in {"a.lbr": 'include "c.lbr"\n', "c.lbr": "layers 1 dro\n", "b.lbr": "layers 0 dropp\n"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = tmp_path / "main.lbr"
    text = 'include "a.lbr"\ninclude "b.lbr"\nelse keep\n'
    found = diagnostics(Document(path.as_uri(), Text(text), 1, None), None)
    assert [(item.code, item.range.start.line) for item in found if item.severity == 1] == [("LB101", 0), ("LB101", 1)]


def test_a_name_that_an_included_file_uses_is_not_renamed(tmp_path: Path) -> None:
    (tmp_path / "rules.lbr").write_text("else swa(window=$w)\n", encoding="utf-8")
    path = tmp_path / "a.lbr"
    analysis = Analysis('let $w = 64\nlet $v = 1\ninclude "rules.lbr"\n', str(path), path)
    (problem,) = rename(analysis, 4, "x").diagnostics
    assert (problem.code, "rules.lbr" in problem.message) == ("LB060", True)
    assert rename(analysis, 17, "x").value is not None


def page_at(analysis: Analysis, offset: int) -> str:
    found = hover(analysis, offset)
    assert found is not None
    return found.page


def test_rename() -> None:
    text = "let $a = 1\nlet $b = 2\nlayers $a, $b keep\nelse keep"
    analysis = Analysis(text)
    done = rename(analysis, 5, "first_one").unwrap()
    assert [(token.start, new) for token, new in done] == [(4, "$first_one"), (text.index("$a,"), "$first_one")]
    assert rename(analysis, 5, "$c").unwrap()[0][1] == "$c"
    for new in ("b", "1x", "a-b", "", "@a"):
        assert [d.code for d in rename(analysis, 5, new).diagnostics] == ["LB061"]
    assert [d.code for d in rename(analysis, text.index("keep"), "x").diagnostics] == ["LB060"]


def test_outline() -> None:
    entries = outline(Analysis(TEXT))
    assert [(entry.kind, entry.name, entry.detail) for entry in entries] == [
        ("File", "lbr 1", ""),
        ("File", "half 😀", "recipe"),
        ("Variable", "$window", "tokens"),
        ("Constant", "$half", "$window / 2"),
        ("Array", "@core", "first 2, last 1"),
        ("Object", "measure", ""),
        ("Function", "1 layers @core", "keep"),
        ("Function", "2 lowest 6 by sensitivity", "drop(mlp)"),
        ("Function", "3 where kl(swa(window=$half)) < 5% and model.layers > 4", "swa(window=$window, sinks=4)"),
        ("Function", "4 else", "keep"),
        ("Object", "heal", ""),
        ("Boolean", "assert kv(32Ki) <= 50%", ""),
    ]
    assert [child.name for child in entries[5].children] == ["metric", "tokens"]
    assert all(entry.span.start <= entry.name_span.start and entry.name_span.end <= entry.span.end for entry in entries)


def hints(text: str) -> list[str]:
    analysis = Analysis(text, facts=smollm2_facts())
    assert analysis.checked.value is not None, analysis.checked.diagnostics
    return [hint.text for hint in claim_hints(analysis.checked.value, smollm2_facts())]


def test_hints_are_exact_without_measurements() -> None:
    assert hints("layers 0-3, last 1 keep\nlayers 2-9 drop\nlayers every 10 drop(mlp)\nelse swa(window=64)") == [
        "claims 5 layers",
        "claims 6 layers",
        "claims 2 layers",
        "claims 19 layers",
    ]
    assert hints("layers 0 keep\nelse keep") == ["claims 1 layer", "claims 29 layers"]


def test_hints_say_what_measurements_decide() -> None:
    text = "layers 0-3 keep\nlowest 6 by nll drop\nlowest 10% of rest by kl drop\nwhere nll < 0.1 drop\nelse keep"
    assert hints(text) == [
        "claims 4 layers",
        "claims at most 6 layers",
        "claims at most 3 layers",
        "needs measurements",
        "needs measurements",
    ]


def test_findings_know_the_model() -> None:
    assert "LB300" in {d.code for d in Analysis("layers 20-40 keep", facts=smollm2_facts()).checked.diagnostics}
    assert "LB300" not in {d.code for d in Analysis("layers 20-40 keep").checked.diagnostics}


def test_formatting_touches_only_the_lines_that_change() -> None:
    text = "lbr 1\nlayers  0-3   keep\nelse keep\n"
    edit = formatting(text, "a.lbr").unwrap()
    assert text[edit.span.start : edit.span.end] == "layers  0-3   keep\n"
    assert edit.text == "layers 0-3 keep\n"
    windows = formatting(text.replace("\n", "\r\n"), "a.lbr").unwrap()
    assert windows.text == "layers 0-3 keep\r\n"
    same = formatting("else keep\n", "a.lbr").unwrap()
    assert same.span.start == same.span.end
    assert same.text == ""
    assert formatting("layers", "a.lbr").value is None


def test_codes_link_to_the_page_of_a_source_tree_or_to_a_given_one() -> None:
    pytest.importorskip("lsprotocol")
    from lbdsl.editor.protocol import docs_page

    page = docs_page(None)
    assert page is not None
    assert "### LB102\n" in Path(page.removeprefix("file://")).read_text(encoding="utf-8")
    assert docs_page("https://example.org/errors") == "https://example.org/errors"
    assert docs_page("javascript:alert(1)") == page
