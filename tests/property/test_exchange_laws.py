"""JSON and YAML lose nothing of a tree, for trees over the whole grammar."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbdsl.core.diagnostic import Diagnosed
from lbdsl.language import tree
from lbdsl.recipe.exchange import STATEMENTS, from_exchange, to_exchange
from lbdsl.recipe.exchange_text import json_text, read_data, yaml_text
from tests.property import language_trees as trees
from tests.property.tree_text import tree_text


def _call(name: str, args: list[tuple[str | None, Any]] | None) -> tree.Call:
    made = (
        None
        if args is None
        else tuple(
            tree.Arg(trees.NOWHERE, None if key is None else tree.Ident(trees.NOWHERE, key), value) for key, value in args
        )
    )
    return tree.Call(trees.NOWHERE, tree.Ident(trees.NOWHERE, name), made)


# Actions that are registered, with parameters that they have: others are refused on the way in.
actions = st.one_of(
    st.sampled_from(["keep", "drop", "swa"]).map(lambda name: _call(name, None)),
    st.just(_call("keep", [])),
    trees.expressions.map(lambda value: _call("drop", [("target", value)])),
    st.builds(lambda a, b: _call("swa", [("window", a), ("sinks", b)]), trees.expressions, trees.expressions),
    st.builds(lambda a, b: _call("swa", [(None, a), ("sinks", b)]), trees.expressions, trees.expressions),
    st.lists(trees.expressions, max_size=3).map(lambda values: _call("swa", [(None, value) for value in values])),
)
files = st.lists(trees.statements(actions, trees.settings(st.sampled_from(trees.SETTING_KEYS))), max_size=4).map(tuple)


@pytest.mark.parametrize("form", ["json", "yaml"])
@given(statements=files)
def test_there_and_back_is_the_identity(form: Any, statements) -> None:
    written_first = to_exchange(tree_text(statements), "t", form)
    written = written_first.unwrap()
    back: Diagnosed[str] = from_exchange(written, "t", form)
    assert not back.diagnostics
    assert trees.parsed(back.unwrap()) == statements
    assert to_exchange(back.unwrap(), "t", form).unwrap() == written


plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**17), 10**17),
        st.sampled_from([0.5, -2.25, 1234.5]),
        st.sampled_from(
            ["8Ki", "1e-3", "yes", "null", "~", "0x10", "1_000", "1:30", "on", "-", "2024-01-01", "=", "<<", "@a", "%"]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_text_of_plain_data_reads_back(data: Any) -> None:
    for form, write in (("json", json_text), ("yaml", yaml_text)):
        found = read_data(write(data), "t", form)
        assert not found.diagnostics, write(data)
        assert found.value == data
        assert repr(found.value) == repr(data)


@given(
    st.sampled_from(["json", "yaml"]),
    st.one_of(
        st.text(max_size=60), plain.map(json_text), plain.map(yaml_text), st.text("{}[]\"':,-&*!?|>%@ \n#ab01", max_size=40)
    ),
)
def test_any_text_is_read_or_refused(form: Any, text: str) -> None:
    found = from_exchange(text, "t", form)
    assert (found.value is None) == any(problem.is_error for problem in found.diagnostics)
    assert {problem.code for problem in found.diagnostics} <= {"LB041", "LB042", "LB043", "LB044", "LB045"}


KEYS = sorted({key for form in STATEMENTS for key in form.fields})
shapes = st.fixed_dictionaries(
    {
        "format_version": st.just(1),
        "statements": st.lists(st.dictionaries(st.sampled_from(KEYS), plain, max_size=4), max_size=2),
    }
)


@given(shapes)
def test_statements_of_any_shape_are_read_or_refused(data: Any) -> None:
    found = from_exchange(json_text(data), "t", "json")
    assert (found.value is None) == any(problem.is_error for problem in found.diagnostics)
