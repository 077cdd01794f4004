"""Hover texts: the page of the word at a position, and the explanations of the findings there."""

from __future__ import annotations

from dataclasses import dataclass

from lbdsl.actions import actions
from lbdsl.core.codes import code_for
from lbdsl.core.units import plural, ranges_text
from lbdsl.editor.analysis import Analysis
from lbdsl.editor.cursor import Role
from lbdsl.editor.pages import FUNCTIONS, WORDS, action_page, keyword_page, metric_page, parameter_page, setting_page
from lbdsl.language import tree
from lbdsl.language.lexer import Token
from lbdsl.language.limits import MAX_DIGITS
from lbdsl.language.parser import Parser
from lbdsl.language.words import keywords
from lbdsl.metrics import metrics
from lbdsl.recipe.schema import FACTS
from lbdsl.recipe.scope import Scope
from lbdsl.recipe.sets import resolve_group
from lbdsl.recipe.variables import TYPES
from lbdsl.solve.layersets import members, ranked_sets, set_problems


@dataclass(frozen=True)
class Hover:
    """Markdown about the text between two offsets."""

    page: str
    start: int
    end: int


def hover(analysis: Analysis, offset: int) -> Hover | None:
    """The hover text at an offset, or None."""
    token = analysis.token_at(offset)
    start, end = (token.start, token.end) if token is not None else (offset, offset)
    page = _page(analysis, token) if token is not None else None
    pages = [page] if page else []
    for found in analysis.checked.diagnostics:
        span = found.span
        if span is not None and analysis.is_own(span) and span.start <= offset <= max(span.end, span.start + 1):
            code = code_for(found.code)
            pages.append(f"**{code.id}**: {code.title}. {code.reason} (`lbdsl explain {code.id}`)")
    return Hover("\n\n---\n\n".join(pages), start, end) if pages else None


def _page(analysis: Analysis, token: Token) -> str | None:
    match token.type:
        case "VAR" | "REF":
            definition = analysis.definitions.get(token.text)
            if definition is None:
                return None
            return definition.page + (_members(analysis, token.text) if token.type == "REF" else "")
        case "KEY" | "NAME" if (cursor := analysis.cursor(token.start, whole=True)) is not None:
            if token.type == "NAME":
                return _name(analysis, token.text, cursor.role())
            call = cursor.call()
            if call is not None:
                return parameter_page(call[0], token.text) or WORDS.get(call[0])
            return setting_page(cursor.block, token.text) if cursor.block else None
        case "DOTTED":
            return _fact(analysis, token.text)
        case "QUANTITY" | "PERCENT":
            return _number(analysis, token)
    return keyword_page(token.text) if token.text in keywords() else None


def _name(analysis: Analysis, name: str, role: Role) -> str | None:
    """The page of a bare name, by its role: `kl` is a metric in a rule and a loss in `heal`."""
    if role.kind == "type":
        return f"`{name}`: {TYPES[name][-1]}." if name in TYPES else None
    if role.kind == "setting" and name in WORDS:
        return WORDS[name]
    if role.kind == "action" and name in actions():
        return action_page(name)
    if name == "sensitivity" or name in metrics():
        return metric_page(name, analysis.metric)
    if name in FUNCTIONS:
        form, said = FUNCTIONS[name]
        return f"```lbr\n{form}\n```\n{said}"
    if role.kind == "argument" and role.owner in actions():
        return parameter_page(role.owner, role.parameter)
    return action_page(name) if name in actions() else WORDS.get(name)


def _fact(analysis: Analysis, name: str) -> str | None:
    """The page of a fact such as `model.layers`, with its value when a model is known."""
    bare = name.removeprefix("model.")
    if bare not in FACTS or bare == name:
        return None
    said = f": {getattr(analysis.facts, bare)} in this model" if analysis.facts is not None else ""
    return f"`{name}`, a fact of the model{said}."


def _number(analysis: Analysis, token: Token) -> str | None:
    """The value of a number with a suffix: `4Ki` is 4096."""
    if len(token.text) > MAX_DIGITS:
        return None
    value = Parser(analysis.source).value(token)
    assert isinstance(value, tree.Number), "a quantity is a number"
    if token.type == "PERCENT":
        return f"`{token.text}` = {value.value:.12g}"
    unit = "" if value.unit.value == "number" else f" {value.unit.value}"
    return f"`{token.text}` = {value.value:,}{unit}".replace(",", " ")


def _members(analysis: Analysis, name: str) -> str:
    """The layers of a group in the configured model."""
    if analysis.facts is None:
        return ""
    scope = Scope()
    for statement in analysis.statements:
        if isinstance(statement, tree.Group):
            layer_set = resolve_group(scope, statement)
            if f"@{statement.name.name}" == name:
                if layer_set is None or ranked_sets(layer_set):
                    return "\n\nWhich layers, measurements or values decide."
                if any(set_problems(layer_set, analysis.facts.layers)):
                    return "\n\nThis model does not have all of these layers."
                layers = sorted(i for i in members(layer_set, analysis.facts.layers) if 0 <= i < analysis.facts.layers)
                return f"\n\n{plural(len(layers), 'layer')} of this model: {ranges_text(layers) or 'none'}."
    return ""
