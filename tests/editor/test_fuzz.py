"""No text and no place in it makes a feature of the editor raise."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lbdsl.api.fixing import chosen_fixes
from lbdsl.editor.analysis import Analysis
from lbdsl.editor.completion import complete
from lbdsl.editor.edits import definition_of, formatting, rename, uses_of
from lbdsl.editor.hints import claim_hints
from lbdsl.editor.hover import hover
from lbdsl.editor.outline import outline
from lbdsl.language.highlight import pieces
from tests.plan_cases import smollm2_facts

SPEC = Path(__file__).parents[1] / "spec"
RECIPES = [
    text
    for path in sorted(SPEC.glob("*.md"))
    for text in re.findall(r"^```lbr[^\n]*\n(.*?)^```\n", path.read_text(encoding="utf-8"), re.M | re.S)
    if len(text) < 1500
]
WORDS = sorted({word for text in RECIPES for word in re.findall(r"\w+|[^\w\s]", text)})
FACTS = smollm2_facts()


def use(text: str, offset: int) -> None:
    """Everything an editor asks of a text, and what must hold of the answers."""
    analysis = Analysis(text, "t.lbr", facts=FACTS)
    cursor, items = complete(analysis, offset)
    assert cursor is None or (0 <= cursor.start <= offset <= cursor.end <= len(text))
    assert len({item.label for item in items}) == len(items)
    found = hover(analysis, offset)
    assert found is None or (found.page and 0 <= found.start <= offset <= found.end <= len(text))
    definition_of(analysis, offset)
    rename(analysis, offset, "renamed")
    assert all(text[token.start : token.end] == token.text for token in uses_of(analysis, offset))
    for entry in outline(analysis):
        assert entry.span.start <= entry.name_span.start <= entry.name_span.end <= entry.span.end
    assert "".join(piece.text for piece in pieces(text)) == text
    if analysis.checked.value is not None:
        assert len(claim_hints(analysis.checked.value, FACTS)) in (0, len(analysis.checked.value.rules))
    chosen_fixes(text, analysis.checked.diagnostics)
    edit = formatting(text, "t.lbr").value
    if edit is not None:
        formatted = text[: edit.span.start] + edit.text + text[edit.span.end :]
        again = formatting(formatted, "t.lbr").unwrap()
        assert formatted[again.span.start : again.span.end] == again.text


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from('$@"#~\n;{}()[] =')), max_size=80), st.data())
def test_any_text(text: str, data: st.DataObject) -> None:
    use(text, data.draw(st.integers(0, len(text))))


@given(st.data())
def test_mangled_recipes(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(RECIPES))
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 6)))
        new = data.draw(st.sampled_from([*WORDS, "", " ", "\n", "\r\n", "\0", "é", "😀", "\u2028"]))
        text = text[:start] + new + text[end:]
    use(text, data.draw(st.integers(0, len(text))))


@given(st.sampled_from(RECIPES), st.data())
def test_truncations(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    use(text[:cut], cut)
