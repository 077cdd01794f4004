"""What `init --goal` asks for, by when it is known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.core.span import Source
from lbdsl.language.format import format_text
from lbdsl.language.parse import parse
from lbdsl.language.tree import Assertion, Call, Compare, Logic, Number, walk
from lbdsl.metrics import Of, metrics_of
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema import PostScore, ResolvedAssertion

MOST_RISE = 0.1
"""The rise of perplexity that a goal allows which names none."""

LESS_IS_BETTER = ("ppl_increase", "kl_healed")


@dataclass(frozen=True)
class Goals:
    """What is asked for, by when it is known: `budgets` before anything is measured, `scores` before healing, `gates`
    after it. `bounds` are those on scores that stand for the gates, `context` the most tokens that a gate names (0: none).
    """

    budgets: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    bounds: Mapping[str, float] = field(default_factory=dict)
    context: int = 0

    @classmethod
    def of(cls, goals: Sequence[str]) -> Goals:
        """Raises LbdslError for a goal that does not parse, and for a gate that cannot be checked."""
        scores, finished = set(metrics_of(Of.CHANGED)), set(metrics_of(Of.FINISHED)) - set(metrics_of(Of.CHANGED))
        asked: Mapping[str, list[str]] = {"budgets": [], "scores": [], "gates": []}
        for goal, names in (
            found for text in goals for one in re.split(r",\s*(?![^()]*\))", text) for found in _conditions(one)
        ):
            asked["gates" if names & finished else "scores" if names & scores else "budgets"].append(goal)
        # Their errors are shown beside them, and not beside the recipe.
        gates = [recipe_from_text(f"assert {gate}\nelse keep", "--goal").unwrap().asserts[0] for gate in asked["gates"]]
        bounds, context = {"kl": math.log1p(MOST_RISE), "recall": 0.1}, 0
        for value, number in (_compared(gate) for gate in gates):
            if isinstance(value.task, int):
                context = max(context, value.task)
            if value.metric == "recovery":
                bounds["recall"] = -math.log(min(0.99, max(0.01, number)))
            elif value.metric == "ppl_increase":
                bounds["kl"] = math.log1p(max(0.001, number))
        for text in asked["scores"]:
            # They are bounds of `choose`.
            if re.search(r"\b(or|not)\b", text) or not re.search(r"<=?\s*[\d.]+\S*$", text):
                said = f"`{text}` is no goal: what may be lost is `METRIC <= NUMBER`"
                raise fail("LB123", said, help="as in `kl <= 0.05`; join several with `and`")
        asked["scores"][:] = [re.sub("<(?!=)", "<=", text) for text in asked["scores"]]
        named = {name for text in asked["scores"] for name in re.findall(r"\w+", text)}
        # The rise of the loss is no less than what `kl` stands for.
        left = {name: most for name, most in bounds.items() if name not in named | ({"kl"} if "nll" in named else set())}
        found = cls(tuple(asked["budgets"]), tuple(asked["scores"]), tuple(asked["gates"]), left, context)
        return found if found.smallest else replace(found, bounds={})

    @property
    def smallest(self) -> bool:
        """Whether they say what the finished model must keep, or what may be lost and no cost: the smallest cache that does
        is looked for."""
        return bool(self.gates) or (bool(self.scores) and all("serves" in budget for budget in self.budgets))

    @property
    def served(self) -> set[str]:
        """The engines that they name."""
        return {name for goal in self.budgets if "serves" in goal for name in re.findall(r'"([^"]+)"', goal)}


def _conditions(goal: str) -> Iterator[tuple[str, set[str]]]:
    """What `and` joins in a goal, each with the names in it."""
    text = f"assert {goal}"
    formatted = format_text(text, "--goal")
    if formatted.value is None:
        help = "a goal is a condition, as in `kv(8Ki) <= 50%`, `kl <= 0.05`, `recovery(needle(4Ki)) >= 90%`"
        raise LbdslError(tuple(replace(problem, help=(help,)) for problem in formatted.diagnostics))
    exprs = [part.expr for part in parse(Source("--goal", text)).unwrap().statements if isinstance(part, Assertion)]
    while exprs:
        expr = exprs.pop(0)
        if isinstance(expr, Logic) and expr.op == "and":
            exprs = [*expr.operands, *exprs]
        else:
            yield expr.span.text, {node.name.name for node in walk(expr) if isinstance(node, Call)}


def _compared(gate: ResolvedAssertion) -> tuple[PostScore, float]:
    """The value and the number of `VALUE <= NUMBER`. Raises LB123 for another condition, and one that worse models keep."""
    match gate.expr:
        case Compare(operands=(PostScore() as value, Number() as number), ops=(op,)):
            pass
        case _:
            said = f"`{gate.text}` is no goal: on the finished model it is one comparison of a value with a number"
            raise fail("LB123", said, gate.span, help="as in `recovery(needle(1Ki)) >= 90%`; join several with `and`")
    less = value.metric in LESS_IS_BETTER
    if op.text not in (("<", "<=") if less else (">", ">=")):
        said = f"`{gate.text}` holds for a worse model, too"
        raise fail("LB123", said, gate.span, help=f"write `{'<=' if less else '>='}`")
    return value, float(number.value)
