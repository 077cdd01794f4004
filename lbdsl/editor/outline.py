"""The outline of a recipe: its definitions, rules, blocks and gates."""

from __future__ import annotations

from dataclasses import dataclass

from lbdsl.core.span import Span
from lbdsl.editor.analysis import Analysis
from lbdsl.language import tree
from lbdsl.language.lexer import one_line


@dataclass(frozen=True)
class Entry:
    """One line of the outline. `kind` is the name of one of the protocol's `SymbolKind`; `span` is the statement,
    `name_span` the part of it that is selected."""

    name: str
    kind: str
    span: Span
    name_span: Span
    detail: str = ""
    children: tuple[Entry, ...] = ()


def outline(analysis: Analysis) -> tuple[Entry, ...]:
    """The entries of the statements that parse, in order."""
    if analysis.file is None:
        return ()
    entries: list[Entry] = []
    rules = 0
    for statement in analysis.file.statements:
        rules += isinstance(statement, tree.RuleStatement | tree.Choose)
        entries.append(_entry(statement, rules))
    return tuple(entries)


def _entry(node: tree.Statement, rules: int) -> Entry:
    span = node.span
    match node:
        case tree.Param():
            return Entry(f"${node.name.name}", "Variable", span, node.name.span, node.type.name)
        case tree.Let():
            return Entry(f"${node.name.name}", "Constant", span, node.name.span, _line(node.value.span))
        case tree.Group():
            return Entry(f"@{node.name.name}", "Array", span, node.name.span, _line(node.layers.span))
        case tree.Block():
            stages = tuple(
                Entry(stage.name.name, "Object", stage.span, stage.name.span, children=_settings(stage.settings))
                for stage in node.stages
            )
            return Entry(node.kind.name, "Object", span, node.kind.span, children=(*_settings(node.settings), *stages))
        case tree.RuleStatement():
            actions = node.actions[0].span.to(node.actions[-1].span)
            return Entry(f"{rules} {_line(node.selector.span)}", "Function", span, node.selector.span, _line(actions))
        case tree.Choose():
            return Entry(f"{rules} choose for layers {_line(node.layers.span)}", "Function", span, node.layers.span)
        case tree.Assertion() | tree.Requires():
            return Entry(_line(span), "Boolean", span, node.expr.span)
        case tree.RecipeName():
            return Entry(node.name.value or '""', "File", span, node.name.span, "recipe")
        case _:
            return Entry(_line(span), "File", span, span)


def _settings(settings: tuple[tree.Setting, ...]) -> tuple[Entry, ...]:
    return tuple(Entry(item.key.name, "Property", item.span, item.key.span, _line(item.value.span)) for item in settings)


def _line(span: Span) -> str:
    """The text of a span on one line, of at most 60 characters."""
    text = one_line(span.text)
    return text if len(text) <= 60 else text[:59] + "…"
