"""Trees: shapes, spans and how statements end."""

from __future__ import annotations

import pytest

from lbdsl.core.span import Source, Span
from lbdsl.core.units import Unit
from lbdsl.language import tree
from lbdsl.language.parse import parse


def statements(text: str) -> tuple[tree.Statement, ...]:
    return parse(Source("t", text)).unwrap().statements


def test_arguments_and_settings_keep_key_and_value_spans() -> None:
    rule, block = statements("else swa(window=512, sinks = 4)\nheal { lr = 1e-3 }")
    assert isinstance(rule, tree.RuleStatement)
    arg = rule.actions[0].args[1]
    assert (arg.key.span.text, arg.value.span.text, arg.span.text) == ("sinks", "4", "sinks = 4")
    assert isinstance(block, tree.Block)
    assert (block.settings[0].key.span.text, block.settings[0].value.span.text) == ("lr", "1e-3")


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("4Ki", 4096, Unit.NONE),
        ("10M", 10**7, Unit.NONE),
        ("10M tokens", 10**7, Unit.TOKENS),
        ("512 tokens", 512, Unit.TOKENS),
        ("2GiB", 2**31, Unit.BYTES),
        ("2GB", 2 * 10**9, Unit.BYTES),
        ("7B", 7, Unit.BYTES),
        ("50%", 0.5, Unit.RATIO),
        ("0.5%", 0.005, Unit.RATIO),
        ("1.5k", 1500, Unit.NONE),
        ("1e-3", 1e-3, Unit.NONE),
        ("0.25", 0.25, Unit.NONE),
        ("0.5Ki tokens", 512, Unit.TOKENS),
    ],
)
def test_numbers(text: str, value: float, unit: Unit) -> None:
    let = statements(f"let $a = {text}")[0]
    assert isinstance(let, tree.Let)
    number = let.value
    assert isinstance(number, tree.Number)
    assert (number.value, number.unit, number.span.text) == (value, unit, text)
    assert isinstance(number.value, int) == isinstance(value, int)


def test_tokens_is_a_unit_only_after_a_number() -> None:
    block = statements("heal { batch = 2\n tokens = 8Ki }")[0]
    assert isinstance(block, tree.Block)
    assert [setting.key.name for setting in block.settings] == ["batch", "tokens"]


@pytest.mark.parametrize(
    "text",
    [
        "layers 0-3,\n4 keep",
        "where nll <\n0.1 drop",
        "where nll < 0.1\nand kl < 0.1 drop",
        "layers all\nexcept 3 keep",
        'else keep\nbecause\n"why"',
        "lowest by\nnll\nuntil\nkv(8Ki) < 50% drop",
        "else swa(\nwindow\n=\n512\n)",
        "let $a =\n3",
        "param $a: int in\n{1,\n2}",
        "layers not\n3 keep",
        'modules "a" in\nlayers 3 keep',
    ],
)
def test_a_newline_that_ends_nothing(text: str) -> None:
    assert len(statements(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "else keep\nelse drop",
        "layers 3 keep\nlowest 2 by nll drop",
        "else keep;;\n;else drop",
        "else keep # a\n\n# b\nelse drop",
    ],
)
def test_a_newline_or_semicolon_that_ends_a_statement(text: str) -> None:
    assert len(statements(text)) == 2


def test_a_forgotten_action_does_not_swallow_the_next_line() -> None:
    found = parse(Source("t", "layers 0-3\nlowest 2 by nll drop\nlayers 5\nwhere nll < 1 drop"))
    assert [d.code for d in found.diagnostics] == ["LB016", "LB016"]
    assert found.value is not None
    assert len(found.value.statements) == 2


def test_chains_are_flat_and_precedence_is_the_usual() -> None:
    let = statements("let $a = 1 + 2 * 3 - -4 / (5 + 6)")[0]
    assert isinstance(let, tree.Let)
    assert isinstance(let.value, tree.Arithmetic)
    assert let.value.ops == ("+", "-")
    assert isinstance(let.value.operands[1], tree.Arithmetic)
    rule = statements("where not a < 1 and b < 2 or c not in [1] drop")[0]
    assert isinstance(rule, tree.RuleStatement)
    assert isinstance(rule.selector, tree.WhereSelector)
    either = rule.selector.where
    assert isinstance(either, tree.Logic)
    assert either.op == "or"
    both = either.operands[0]
    assert isinstance(both, tree.Logic)
    assert isinstance(both.operands[0], tree.Not)
    last = either.operands[1]
    assert isinstance(last, tree.Compare)
    assert last.ops[0].text == "not in"


def test_nodes_are_frozen_and_equal_without_their_spans() -> None:
    one, other = statements("else keep"), statements("  else   keep")
    assert one == other
    assert hash(one) == hash(other)
    assert one != statements("else drop")
    with pytest.raises(AttributeError, match="frozen"):
        one[0].because = None  # type: ignore[misc, union-attr]
    assert repr(one[0]).startswith("RuleStatement(selector=ElseSelector(), actions=(Call(")


def test_comments_are_kept_beside_the_tree() -> None:
    file = parse(Source("t", "# a\nelse keep # b\n")).unwrap()
    assert [span.text for span in file.comments] == ["# a", "# b"]
    assert isinstance(file.comments[0], Span)


def test_strings_and_patterns() -> None:
    name, rule = statements('recipe "a\\n\\"b\\\\"\nmodules ~"a\\.b\\"", "c.*" keep')
    assert isinstance(name, tree.RecipeName)
    assert name.name.value == 'a\n"b\\'
    assert isinstance(rule, tree.RuleStatement)
    assert isinstance(rule.selector, tree.ModulesSelector)
    assert rule.selector.patterns[0].value == 'a\\.b"'
