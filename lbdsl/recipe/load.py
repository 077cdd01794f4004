"""Load a recipe from a file or from text: read, parse, and resolve every name, statement by statement."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, Label, has_errors, refused, warning
from lbdsl.core.span import Source, Span
from lbdsl.language import tree
from lbdsl.language.lexer import one_line
from lbdsl.language.limits import MAX_BYTES
from lbdsl.language.parse import parse
from lbdsl.language.words import RULES, ticked
from lbdsl.recipe.beyond import missing_gate, named_windows, nothing_beyond
from lbdsl.recipe.choosing import check_beside, resolve_choose
from lbdsl.recipe.expressions import resolved_condition
from lbdsl.recipe.reading import FileReader, FolderReader, Whole, read_bytes, text_of
from lbdsl.recipe.rules import check_actions, lint_rules, lint_scores
from lbdsl.recipe.schema import Evaluate, Measure, Recipe, ResolvedAssertion, Rule
from lbdsl.recipe.scope import Scope, attempt, each
from lbdsl.recipe.sets import resolve_group, resolve_selector
from lbdsl.recipe.settings import resolve_block
from lbdsl.recipe.types import Clause
from lbdsl.recipe.values import resolve_action
from lbdsl.recipe.variables import outside_values, resolve_let, resolve_param

_FOLLOWING = ("LB206", "LB207", "LB208", "LB209", "LB210")
"""Findings that may only follow from an error elsewhere; reported only when there are no errors."""

_CHOOSE = re.compile(r"(?:^|;)[ \t]*choose\b", re.MULTILINE)

_DEFINITION = re.compile(r"(?:^|;)[ \t]*(\w+)[ \t]+([$@]\w+)", re.MULTILINE)


def load_recipe(path: str | Path, set_params: Mapping[str, object] | None = None) -> Diagnosed[Recipe]:
    """The recipe in a file, with its includes. A file that is missing, unreadable, not UTF-8, larger than 2 MiB or
    a saved plan is a diagnostic."""
    read = read_bytes(path)
    if read.value is None:
        return Diagnosed(None, read.diagnostics)
    return recipe_from_bytes(read.value, str(path), set_params, reader=FolderReader(Path(path)))


def recipe_from_text(
    text: str, name: str = "<string>", set_params: Mapping[str, object] | None = None, *, reader: FileReader | None = None
) -> Diagnosed[Recipe]:
    """The recipe in a text. Statements that parse are checked even when others do not parse.

    `reader` reads the files that it includes: `FolderReader(path)` for a text that is, or will be, stored at `path`;
    without a reader, `include` is an error.
    """
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        return refused("LB020", f"{name} holds half of a surrogate pair (at {problem.start})")
    if text.startswith('{"') and '"lbdsl_version"' in text:
        return _is_a_plan(name)
    parsed = parse(Source(name, text))
    if parsed.value is None:
        return Diagnosed(None, parsed.diagnostics)
    whole = Whole(parsed.value, reader)
    resolved = _Resolver(whole, set_params or {}).recipe()
    syntax = (*parsed.diagnostics, *whole.diagnostics)
    # Stages of a block have its settings, and named expressions their texts.
    problems = tuple(dict.fromkeys((*syntax, *resolved.diagnostics)))
    failed = has_errors(problems)
    if failed:
        problems = tuple(problem for problem in problems if problem.code not in _FOLLOWING)
    if has_errors(syntax):
        # Statements that did not parse may define names, which follow their first words.
        begun = {match[2] for match in _DEFINITION.finditer(text) if match[1] not in RULES}
        lost = begun.difference(_definitions(parsed.value.statements))
        problems = tuple(problem for problem in problems if not _is_lost(problem, lost, bool(whole.diagnostics)))
    return Diagnosed(None if failed else resolved.value, tuple(sorted(problems, key=lambda problem: problem.place)))


def recipe_from_bytes(
    data: bytes, name: str, set_params: Mapping[str, object] | None = None, *, reader: FileReader | None = None
) -> Diagnosed[Recipe]:
    """The recipe in bytes that were read from a file; see `recipe_from_text`."""
    if len(data) > MAX_BYTES and name.endswith(".lbplan"):
        return _is_a_plan(name)
    if name.endswith((".yaml", ".yml")):
        message = f"{name} is a recipe in YAML, not in lbdsl's language"
        return refused("LB138", message, help=f"`lbdsl convert {name}` turns it into one")
    text = text_of(data, name)
    if text.value is None:
        return Diagnosed(None, text.diagnostics)
    return recipe_from_text(text.value, name, set_params, reader=reader)


def _definitions(statements: Iterable[tree.Statement]) -> dict[str, Span]:
    """The span of the first definition of each `$name` and `@name`."""
    names = [node.name.span for node in statements if isinstance(node, tree.Param | tree.Let | tree.Group)]
    return {span.text: span for span in reversed(names)}


def _is_lost(problem: Diagnostic, lost: Collection[str], includes: bool) -> bool:
    """Whether an unknown name only follows from another error. `includes`: an include that may define it has errors."""
    if problem.code not in ("LB110", "LB111") or problem.span is None:
        return problem.code == "LB118"
    return includes or problem.span.text in lost or problem.span.source.base > 0


def _is_a_plan(name: str) -> Diagnosed[Recipe]:
    hints = (f"`lbdsl show {name}` shows it", f"`lbdsl apply {name}` carries it out")
    return refused("LB138", f"{name} is a saved plan, not a recipe", help=hints)


# Statements ----------------------------------------------------------------------------------------------------------

VERSION = 1


def sensitivity(statements: Iterable[tree.Statement]) -> str:
    """The metric that `sensitivity` means, even in statements before the `measure` block that sets it. Only the metric is
    resolved: other settings may use variables that are not defined yet, or have errors."""
    blocks = [part for part in statements if isinstance(part, tree.Block) and part.kind.name == "measure"]
    for block in blocks[:1]:
        metric = tuple(setting for setting in block.settings if setting.key.name == "metric")
        found = attempt(resolve_block, Scope(), tree.Block(block.span, block.kind, metric))
        if found is not None:
            return str(found.metric)
    return Measure().metric


class _Resolver:
    """Collects the parts of one recipe. `set_params` are `--set` values as text, checked against its parameters."""

    def __init__(self, whole: Whole, set_params: Mapping[str, object]):
        self.whole = whole
        self.scope = Scope()
        self.parts: dict[str, Any] = {}
        self.once: dict[str, Span] = {}
        self.params: dict[str, int | float | str | bool] = {}
        self.requires: list[ResolvedAssertion] = []
        self.asserts: list[ResolvedAssertion] = []
        self.rules: list[Rule] = []
        self.rule_count = 0
        self.first_else: tuple[int, Span] | None = None
        self.scope.below = _definitions(whole.statements)
        self.outside = outside_values(self.scope, whole.statements, set_params)
        self.scope.metric = sensitivity(whole.statements)

    def statement(self, statement: tree.Statement) -> None:
        scope = self.scope
        match statement:
            case tree.Version():
                base = statement.span.source.base
                if self._only("lbr", statement.span, f"lbr {base}") and statement.number.value != VERSION:
                    message = f"unknown language version {statement.number.text}"
                    help = f"this lbdsl supports `lbr {VERSION}`; a newer one may support more"
                    scope.error("LB124", message, statement.number.span, help=help)
            case tree.RecipeName():
                if statement.span.source is not self.whole.source:
                    help = "move it to the recipe that includes it"
                    scope.error("LB134", "`recipe` is in an included file", statement.span, help=help)
                elif self._only("recipe", statement.span):
                    self.parts["name"] = statement.name.value
            case tree.Requires():
                self._assertion(statement.expr, "requires", self.requires)
            case tree.Assertion():
                self._assertion(statement.expr, "assert", self.asserts)
            case tree.Param():
                value = resolve_param(scope, statement, self.outside.get(statement.name.name))
                if value is not None:
                    self.params[statement.name.name] = value.value
            case tree.Let():
                resolve_let(scope, statement)
            case tree.Group():
                resolve_group(scope, statement)
            case tree.Block():
                kind = statement.kind.name
                block = attempt(resolve_block, scope, statement)
                if self._only(kind, statement.kind.span) and block is not None:
                    self.parts[kind] = block
            case tree.RuleStatement():
                self._rule(statement)
            case tree.Choose():
                self._choose(statement)

    def recipe(self) -> Diagnosed[Recipe]:
        """The recipe; None when there are errors."""
        scope, whole = self.scope, self.whole
        for statement in whole.statements:
            self.statement(statement)
        for name, span in scope.defined.items():
            if name not in scope.used:
                scope.diagnostics.append(warning("LB210", f"`{name}` is never used", span, help="use it or remove it"))
        self._check_judged_on()
        choosing = any(_CHOOSE.search(source.text) for source in whole.sources)
        check_beside(scope, self.rules, self.parts.get("measure", Measure()), choosing=choosing)
        found: Recipe | None = None
        if not has_errors(scope.diagnostics):
            found = Recipe(
                params=self.params,
                set_params=tuple(sorted(self.outside)),
                requires=tuple(self.requires),
                rules=tuple(self.rules),
                asserts=tuple(self.asserts),
                path=whole.source.name,
                text=whole.source.text,
                included=tuple(whole.included),
                sources=tuple(whole.sources),
                **self.parts,
            )
        # Rules with errors are not included; findings about the others are still valid.
        healed, gated = "heal" in self.parts, bool(self.asserts)
        recall, beyond = None, tuple[Diagnostic, ...]()
        if found is not None:
            windows = named_windows(found)
            recall, beyond = missing_gate(found, windows), nothing_beyond(found, windows)
        linted = lint_rules(self.rules, healed=healed, gated=gated, first_else=self.first_else, recall=recall)
        scope.diagnostics += [*linted, *beyond]
        return Diagnosed(found, tuple(scope.diagnostics))

    def _check_judged_on(self) -> None:
        """LB151 for a text that an assert names and the `eval` block does not."""
        if "eval" in self.once and "eval" not in self.parts:
            return  # The block has errors of its own.
        data = self.parts.get("eval", Evaluate()).data
        for name, span in self.scope.judged_on:
            if name not in data:
                listed = ticked(data)
                self.scope.error("LB151", f"the result is not judged on `{name}`", span, help=f"texts of `eval`: {listed}")

    def _only(self, what: str, span: Span, key: str = "") -> bool:
        """False, with an error, when a statement that is allowed once is repeated."""
        key = key or what
        if key in self.once:
            first = Label(self.once[key], "first here")
            help = "name all the layers in one, as in `choose for layers 0-9, 20-29 among ...`"
            help = help if what == "choose" else "remove one of them"
            self.scope.error("LB213", f"`{what}` is given twice", span, labels=first, help=help)
            return False
        self.once[key] = span
        return True

    def _assertion(self, node: tree.Expr, place: Clause, into: list[ResolvedAssertion]) -> None:
        found = attempt(resolved_condition, self.scope, node, place)
        into += [found] if found is not None else []

    def _rule(self, node: tree.RuleStatement) -> None:
        self.rule_count += 1
        if isinstance(node.selector, tree.ElseSelector):
            self.first_else = self.first_else or (self.rule_count, node.span)
        selector = attempt(resolve_selector, self.scope, node.selector)
        actions = attempt(each, lambda call: resolve_action(self.scope, call), node.actions)
        if actions is None or not check_actions(self.scope, node.actions, actions, node.selector) or selector is None:
            return
        text = one_line(node.selector.span.to(node.actions[-1].span).text)
        because = node.because.value if node.because else None
        self.rules.append(Rule(node.span, self.rule_count, selector, actions, because, text))
        self.scope.diagnostics += lint_scores(self.rules[-1], node.actions)

    def _choose(self, node: tree.Choose) -> None:
        self.rule_count += 1
        first = self._only("choose", Span(node.span.source, node.span.start, node.span.start + len("choose")))
        selector = attempt(resolve_choose, self.scope, node)
        if not first or selector is None:
            return
        actions = tuple(dict.fromkeys(action for alternative in selector.alternatives for action in alternative))
        self.rules.append(Rule(node.span, self.rule_count, selector, actions, None, one_line(node.span.text)))
