"""Trees over the whole grammar, and ways to write them that are not canonical."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lbdsl.core.span import Source, Span
from lbdsl.language import tree
from lbdsl.language.layout import CONTINUES_AFTER, CONTINUES_BEFORE, ONLY_BEGINS
from lbdsl.language.lexer import lex
from lbdsl.language.parse import parse

NOWHERE = Span(Source("made", ""), 0, 0)


def parsed(text: str) -> tuple[tree.Statement, ...]:
    return parse(Source("t", text)).unwrap().statements


def number(text: str) -> tree.Number:
    let = parsed(f"let $a = {text}")[0]
    assert isinstance(let, tree.Let)
    assert isinstance(let.value, tree.Number)
    return let.value


NAMES = ["nll", "kl", "sensitivity", "swa", "drop", "keep", "x", "_y2", "Model", "tokens", "k", "e5", "true", "block"]
names = st.sampled_from(NAMES)
keys = st.sampled_from([*NAMES, "group", "by", "else", "window", "in"])
INTS = [number(text) for text in ("0", "1", "7", "007", "29", "123456789012345678")]
NUMBERS = INTS + [
    number(text)
    for text in (
        "0.5",
        "1e-3",
        "2.50E+10",
        "4Ki",
        "10M",
        "10M tokens",
        "512 tokens",
        "2GiB",
        "7B",
        "50%",
        "0.1%",
        "1.5k",
        "0.25Ki tokens",
    )
]
ints, numbers = st.sampled_from(INTS), st.sampled_from(NUMBERS)
idents = names.map(lambda name: tree.Ident(NOWHERE, name))
variables = names.map(lambda name: tree.Variable(NOWHERE, name))
dotted = st.sampled_from(["model.layers", "a.b.c", "layers.in"]).map(lambda name: tree.Dotted(NOWHERE, name))
# Every character but half ones: quotes, backslashes, line ends and `#` among them.
strings = st.text(
    st.one_of(st.sampled_from('"\\\n\t#;{}é你\u202e\r\x0b\u2028 '), st.characters(exclude_categories=["Cs"])), max_size=8
).map(lambda text: tree.String(NOWHERE, text))
patterns = st.lists(st.sampled_from([".*", "a", '"', "\\\\", "\\.", "\\d", " ", "#"]), max_size=4).map(
    lambda parts: tree.Pattern(NOWHERE, "".join(parts))
)


def chains(operand: st.SearchStrategy[Any], ops: list[str], make: Any) -> st.SearchStrategy[Any]:
    """A flat chain: operands and one operator fewer."""
    return st.lists(st.tuples(st.sampled_from(ops), operand), min_size=2, max_size=4).map(
        lambda pairs: make(tuple(value for _, value in pairs), tuple(op for op, _ in pairs[1:]))
    )


def calls(inner: st.SearchStrategy[tree.Expr]) -> st.SearchStrategy[tree.Call]:
    arguments = st.builds(
        lambda key, value: tree.Arg(NOWHERE, None if key is None else tree.Ident(NOWHERE, key), value),
        st.none() | keys,
        inner,
    )
    return st.builds(
        lambda name, args: tree.Call(NOWHERE, name, args), idents, st.none() | st.lists(arguments, max_size=3).map(tuple)
    )


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        calls(inner),
        st.lists(inner, max_size=3).map(lambda items: tree.Items(NOWHERE, tuple(items))),
        st.builds(lambda op, operands: tree.Logic(NOWHERE, op, operands), st.sampled_from(["and", "or"]), pairs),
        inner.map(lambda operand: tree.Not(NOWHERE, operand)),
        inner.map(lambda operand: tree.Minus(NOWHERE, operand)),
        chains(inner, ["+", "-"], lambda operands, ops: tree.Arithmetic(NOWHERE, operands, ops)),
        chains(inner, ["*", "/"], lambda operands, ops: tree.Arithmetic(NOWHERE, operands, ops)),
        chains(
            inner,
            ["<", "<=", ">", ">=", "==", "!=", "in", "not in", "matches"],
            lambda operands, ops: tree.Compare(NOWHERE, operands, tuple(tree.Operator(NOWHERE, op) for op in ops)),
        ),
    )


leaves = st.one_of(
    numbers,
    strings,
    patterns,
    variables,
    dotted,
    names.map(lambda name: tree.Call(NOWHERE, tree.Ident(NOWHERE, name), None)),
)
expressions = st.recursive(leaves, _deeper, max_leaves=6)
amounts = st.one_of(ints, st.just(number("30%")), variables)
points = st.one_of(ints, variables)
metric_calls = calls(leaves)
terms = metric_calls | st.builds(
    lambda weight, call: tree.Arithmetic(NOWHERE, (weight, call), ("*",)),
    st.one_of(ints, variables, st.sampled_from(["0.2", "1e-3"]).map(number)),
    metric_calls,
)
scores = terms | st.lists(terms, min_size=2, max_size=3).map(
    lambda parts: tree.Arithmetic(NOWHERE, tuple(parts), ("+",) * (len(parts) - 1))
)


def _deeper_set(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        pairs.map(lambda sets: tree.UnionSet(NOWHERE, sets)),
        pairs.map(lambda sets: tree.InterSet(NOWHERE, sets)),
        st.builds(lambda base, removed: tree.ExceptSet(NOWHERE, base, removed), inner, inner),
        inner.map(lambda operand: tree.NotSet(NOWHERE, operand)),
    )


sets = st.recursive(
    st.one_of(
        st.just(tree.AllLayers(NOWHERE)),
        points.map(lambda value: tree.Point(NOWHERE, value)),
        st.builds(lambda first, last: tree.Range(NOWHERE, first, last), points, points),
        st.builds(
            lambda which, amount: tree.Edge(NOWHERE, which, amount), st.sampled_from(["first", "last", "middle"]), amounts
        ),
        st.builds(lambda step, start: tree.Every(NOWHERE, step, start), ints, st.none() | ints),
        st.builds(
            lambda way, amount, by: tree.RankedSet(NOWHERE, way, amount, by),
            st.sampled_from(["lowest", "highest"]),
            amounts,
            scores,
        ),
        names.map(lambda name: tree.GroupRef(NOWHERE, name)),
    ),
    _deeper_set,
    max_leaves=5,
)

domains = st.one_of(
    st.builds(lambda low, high: tree.Interval(NOWHERE, low, high), expressions, expressions),
    st.lists(expressions, min_size=1, max_size=3).map(lambda options: tree.Choice(NOWHERE, tuple(options))),
)


def settings(keys: st.SearchStrategy[str]) -> st.SearchStrategy[tree.Setting]:
    return st.builds(lambda key, value: tree.Setting(NOWHERE, tree.Ident(NOWHERE, key), value), keys, expressions)


SETTING_KEYS = ("data", "tokens", "seq")
"""Those that all three blocks have."""


def selectors() -> st.SearchStrategy[Any]:
    where = st.none() | expressions
    ways = st.sampled_from(["lowest", "highest"])
    modules = st.lists(strings | patterns, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.just(tree.ElseSelector(NOWHERE)),
        expressions.map(lambda expr: tree.WhereSelector(NOWHERE, expr)),
        st.builds(lambda layers, expr: tree.LayersSelector(NOWHERE, layers, expr), sets, where),
        st.builds(
            lambda found, layers, expr: tree.ModulesSelector(NOWHERE, found, layers, expr), modules, st.none() | sets, where
        ),
        st.builds(
            lambda way, amount, rest, by, until: tree.RankSelector(NOWHERE, way, amount, rest, by, until, None),
            ways,
            amounts,
            st.booleans(),
            scores,
            where,
        ),
        st.builds(
            lambda way, rest, by, until: tree.RankSelector(NOWHERE, way, None, rest, by, until, None),
            ways,
            st.booleans(),
            scores,
            expressions,
        ),
    )


def can_follow_a_number(call: tree.Call) -> bool:
    """After a number, `tokens` is its unit: no action can be called that."""
    return call.name.name != "tokens"


later = st.one_of(
    st.builds(
        lambda layers, among, by, budgets: tree.Choose(NOWHERE, layers, tuple(among), by, tuple(budgets)),
        sets,
        st.lists(st.lists(metric_calls, min_size=1, max_size=2).map(tuple), min_size=1, max_size=3),
        scores,
        st.lists(expressions, min_size=1, max_size=2),
    ),
    st.builds(
        lambda by, bound, action: tree.RuleStatement(
            NOWHERE, tree.RankSelector(NOWHERE, "lowest", None, False, by, None, bound), (action,), None
        ),
        scores,
        expressions,
        metric_calls.filter(can_follow_a_number),
    ),
    st.lists(settings(st.sampled_from(SETTING_KEYS)), max_size=2).map(
        lambda items: tree.Block(
            NOWHERE,
            tree.Ident(NOWHERE, "heal"),
            (*items, tree.Stage(NOWHERE, tree.Ident(NOWHERE, "match"), tuple(items)), *items),
        )
    ),
)
"""What only later versions carry out."""


def statements(actions: st.SearchStrategy[tree.Call], blocks: st.SearchStrategy[tree.Setting]) -> st.SearchStrategy[Any]:
    """Any statement, with these calls as actions and these settings in blocks."""
    return st.one_of(
        ints.map(lambda value: tree.Version(NOWHERE, value)),
        strings.map(lambda value: tree.RecipeName(NOWHERE, value)),
        expressions.map(lambda expr: tree.Requires(NOWHERE, expr)),
        expressions.map(lambda e: tree.Assertion(NOWHERE, e)),
        st.builds(
            lambda name, kind, domain, default: tree.Param(NOWHERE, name, kind, domain, default),
            variables,
            idents,
            st.none() | domains,
            st.none() | expressions,
        ),
        st.builds(lambda name, value: tree.Let(NOWHERE, name, value), variables, expressions),
        st.builds(lambda name, layers: tree.Group(NOWHERE, tree.GroupRef(NOWHERE, name), layers), names, sets),
        st.builds(lambda path, digest: tree.Include(NOWHERE, path, digest), strings, st.none() | strings),
        st.builds(
            lambda kind, items: tree.Block(NOWHERE, tree.Ident(NOWHERE, kind), tuple(items)),
            st.sampled_from(["measure", "heal", "eval"]),
            st.lists(blocks, max_size=3, unique_by=lambda setting: setting.key.name),
        ),
        st.builds(
            lambda selector, found, because: tree.RuleStatement(NOWHERE, selector, tuple(found), because),
            selectors(),
            st.lists(actions, min_size=1, max_size=2),
            st.none() | strings,
        ),
    )


actions = calls(expressions).filter(can_follow_a_number)
files = st.lists(statements(actions, settings(keys)) | later, max_size=4).map(tuple)
"""Statements of a whole file."""


# Odd spacing ---------------------------------------------------------------------------------------------------------

_SPACES = ["", " ", "  ", "\t", " \t ", "\f"]
_BREAKS = ["\n", "\r\n", "\n\n\n", " # c\n", "\n  # own\n\n# more\n", " #\n", "# é \t\n"]
_ENDS = ["\n", "\r\n", ";", " ; ", ";;\n", "\n\n\n", " # end\n", "; # end\n", "\n\n# own\n", "\n;\n"]


@st.composite
def mangled(draw: st.DrawFn, text: str) -> str:
    """The same statements with other spaces, newlines and comments between their tokens."""
    tokens = [token for token in lex(text).tokens]
    parts: list[str] = [draw(st.sampled_from(["", "# top\n", "\n\n", " \n# a\n\n#b\n"]))]
    brackets: list[bool] = []
    for index, token in enumerate(tokens):
        if token.type in ("NEWLINE", "SEMICOLON"):
            parts.append(draw(st.sampled_from(_ENDS)))
            continue
        before = tokens[index - 1] if index and tokens[index - 1].type not in ("NEWLINE", "SEMICOLON") else None
        if before is not None:
            may_break = brackets[-1:] == [True] or before.type in CONTINUES_AFTER or token.type in CONTINUES_BEFORE
            if may_break and token.type not in ONLY_BEGINS and draw(st.integers(0, 3)) == 0:
                parts.append(draw(st.sampled_from(_BREAKS)))
            elif text[before.end : token.start]:
                parts.append(draw(st.sampled_from(_SPACES[1:])))
            elif draw(st.integers(0, 3)) == 0:
                parts.append(draw(st.sampled_from(_SPACES)))
        if token.type in ("LPAR", "LSQB", "LBRACE"):
            brackets.append(token.type != "LBRACE" or (before is not None and before.type == "IN"))
        elif token.type in ("RPAR", "RSQB", "RBRACE"):
            brackets.pop()
        parts.append(token.text)
        if token.type == "LBRACE" and not brackets[-1] and draw(st.booleans()):
            parts.append(draw(st.sampled_from(["\n", " # open\n", "\n\n# first\n"])))
    return "".join(parts)
