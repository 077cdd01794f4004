"""Resolve values of the whole model in expressions: costs, predicted values, scores, and values of the finished model."""

from __future__ import annotations

from typing import NoReturn

from lbdsl.core.units import Unit
from lbdsl.cost.cost import STATIC_VALUES
from lbdsl.cost.profile import PREDICTED_VALUES
from lbdsl.language import tree
from lbdsl.language.words import ticked
from lbdsl.metrics import Of, TaskMetric, metrics, metrics_of
from lbdsl.recipe.schema import ENGINES, CostOf, PostScore, PredictedOf, Score, Serves
from lbdsl.recipe.schema_blocks import QUESTIONS_FILE, SHORTEST_NEEDLE, Asked, Needle, OwnQuestions, task_name
from lbdsl.recipe.scope import Scope
from lbdsl.recipe.types import Clause, refuse_unquoted
from lbdsl.recipe.values import constant, described, length_in_tokens, whole_number


def post_score(scope: Scope, node: tree.Call, place: Clause) -> PostScore:
    name = node.name.name
    if place != "assert":
        too_early(scope, node, f"`{place}`")
    if issubclass(metrics_of(Of.FINISHED)[name], TaskMetric):
        return _task_score(scope, node)
    if node.args is None:
        return PostScore(node.span, name, None, None)
    argument = only_argument(node)
    if argument is None:
        hint = f'as in `{name}("builtin:wikitext")`; `{name}` alone must hold on every text'
        scope.fail("LB104", f"`{name}` takes one text of the `eval` block, or nothing", node.span, help=hint)
    refuse_unquoted(scope, argument)
    value = constant(scope, argument)
    if not isinstance(value, tree.String):
        scope.fail("LB106", f"expected the name of a data source, not {described(value)}", argument.span, help="quote it")
    scope.judged_on.append((value.value, argument.span))
    return PostScore(node.span, name, value.value, None)


def _task_score(scope: Scope, node: tree.Call) -> PostScore:
    """`needle(4Ki)`, `needle("mine.jsonl")`, `task("hellaswag")`, or `recovery` of one of them."""
    name, argument = node.name.name, only_argument(node)
    form = metrics()[name].form()
    if argument is None:
        scope.fail("LB104", f"`{name}` takes one argument", node.span, help=f"as in `{form}`")
    if name == "recovery":
        known = [kind for kind, cls in metrics_of(Of.FINISHED).items() if issubclass(cls, TaskMetric) and kind != name]
        if not isinstance(argument, tree.Call) or argument.name.name not in known:
            scope.fail("LB104", f"`recovery` is of {ticked(known, ' or ')}", argument.span, help=f"as in `{form}`")
        of = _task_score(scope, argument)
        return PostScore(node.span, name, of.source, of.task)
    asked: Asked = needle_of(scope, "a context", argument) if name == "needle" else task_named(scope, argument)
    return PostScore(node.span, name, task_name(asked), asked)


def needle_of(scope: Scope, what: str, node: tree.Expr, code: str = "LB105") -> Needle:
    """The tokens of a text to hide facts in, or a file of questions. `code` is that of an error for a text too short."""
    refuse_unquoted(scope, node)
    value = constant(scope, node)
    if not isinstance(value, tree.String):
        context = length_in_tokens(scope, what, node)
        if context < SHORTEST_NEEDLE:
            scope.fail(code, f"{what} must be at least {SHORTEST_NEEDLE} tokens, to hide facts in", node.span)
        return context
    if not value.value.lower().endswith(QUESTIONS_FILE):
        message = f'questions are in a {QUESTIONS_FILE} file, and "{value.value}" is none'
        scope.fail("LB106", message, node.span, help='as in `needle("mine.jsonl")`; for built-in questions `needle(4Ki)`')
    return OwnQuestions(file=value.value)


def task_named(scope: Scope, node: tree.Expr) -> str:
    """The name of a task of lm-evaluation-harness."""
    refuse_unquoted(scope, node, words=True)
    value = constant(scope, node, words=True)
    if not isinstance(value, tree.String) or not value.value.strip():
        scope.fail("LB106", f"expected the name of a task, not {described(value)}", node.span, help="quote it")
    return value.value


def cost_of(scope: Scope, node: tree.Call) -> CostOf:
    name = node.name.name
    if not STATIC_VALUES[name].takes_context:
        if node.args is not None:
            scope.fail("LB104", f"`{name}` takes no arguments", node.span, help=f"it is of the whole model: write `{name}`")
        return CostOf(node.span, name, None)
    argument = only_argument(node)
    if argument is None:
        scope.fail("LB104", f"`{name}` needs a context length", node.span, help=f"in tokens, as in `{name}(32Ki)`")
    context = length_in_tokens(scope, "a context", argument)
    if context < 1:
        scope.fail("LB105", f"a context of {context} tokens", argument.span, help="a context is at least 1 token")
    return CostOf(node.span, name, context)


def predicted_of(scope: Scope, node: tree.Call) -> PredictedOf:
    value = PREDICTED_VALUES[node.name.name]
    plain = [arg.value for arg in node.args or () if arg.key is None]
    named = [(arg.key.name, arg.value) for arg in node.args or () if arg.key is not None]
    if len(plain) != len(value.parameters) or [name for name, _ in named] not in ([], ["engine"]):
        message = f"`{value.name}` takes {len(value.parameters)} numbers"
        scope.fail("LB104", message, node.span, help=f"as in `{value.form}`")
    engine = named[0][1].span.text if named else value.engines[0]
    if engine not in value.engines:
        message = f"`{value.name}` is not predicted for this engine"
        scope.fail("LB105", message, named[0][1].span, help=f"`engine={'|'.join(value.engines)}`")
    numbers = [
        whole_number(scope, name, arg, unit) for arg, (name, unit) in zip(plain, value.parameters.items(), strict=True)
    ]
    if min(numbers) < 1:
        scope.fail("LB105", f"the numbers of `{value.form}` are at least 1", node.span)
    context = sum(number for number, unit in zip(numbers, value.parameters.values(), strict=True) if unit is Unit.TOKENS)
    return PredictedOf(node.span, value.name, context, tuple(numbers), engine)


def serves_of(scope: Scope, node: tree.Call, place: Clause) -> Serves:
    argument = only_argument(node)
    engine = None if argument is None else constant(scope, argument, words=True)
    if not isinstance(engine, tree.String) or engine.value not in ENGINES:
        listed = " or ".join(f'`serves("{known}")`' for known in ENGINES)
        scope.fail("LB104", "`serves` takes the name of an engine", node.span, help=f"write {listed}")
    if place != "subject to":
        hint = "`lbdsl plan --target` says which engines serve a plan"
        scope.fail("LB109", "`serves` is a budget of `choose`", node.span, help=hint)
    return Serves(node.span, engine.value)


def joint_score(scope: Scope, node: tree.Call, place: Clause) -> Score:
    name = node.name.name
    joint = metrics_of(Of.CHANGED)
    if name not in joint:
        instead = scope.metric if scope.metric in joint else next(iter(joint))
        message = f"`{name}` is a value of one layer; expected a value of the whole model"
        scope.fail("LB109", message, node.span, help=f"the whole changed model has `{instead}`")
    if node.args is not None:
        message = f"`{name}` of the whole model takes no action"
        scope.fail("LB109", message, node.span, help=f"`{name}` is measured with all changes of the plan at once")
    if place == "until":
        hints = ("give a cost, as in `until kv(32Ki) <= 50%`", f"or gate with `assert {name} < ...`")
        message = f"`until` cannot use `{name}`: it is of the whole changed model, and measured after layers are chosen"
        scope.fail("LB315", message, node.span, help=hints)
    return Score(node.span, name, name, None, True, None)


def only_argument(call: tree.Call) -> tree.Expr | None:
    """The only argument of a call; None unless there is exactly one, without a name."""
    return call.args[0].value if call.args and len(call.args) == 1 and call.args[0].key is None else None


def too_early(scope: Scope, call: tree.Call, asking: str) -> NoReturn:
    """Report a value of the healed model that is used in a decision before healing."""
    message = f"`{call.name.name}` is known only after healing"
    scope.fail("LB108", message, call.span, help=f"{asking} decides before healing; move it to `assert`")
