"""The least cache of SmolLM2 that keeps two bounds, by `choose` with few tries, beside a reference.

Needs `make model`. Windows of 256 tokens with four sink tokens, `kl <= 0.05` and `recall <= 0.1` on 2Ki tokens and 20
questions: of `builtin:recall`, or own ones about two texts (`benchmarks/own_questions.jsonl`), of which every other one
chooses. `QUESTIONS-TRIES` is what `choose` ends at. `QUESTIONS-reference` measures additions of a layer, exchanges of two
and of one for two, in the order of scores, from four starts until none helps, at most `MOST` plans a start: `ended` says
whether it came to that end. What is measured is kept, so a row that was stopped goes on. `windows` are the plan's layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from benchmarks.table import CHOOSING, HEALING, ROOT, Row, Table
from benchmarks.tables.judged import MODEL

TRIES, MOST, STARTS = (6, 16, 24), 100, 4
QUESTIONS = {"builtin": "recall_questions = 20", "own": 'recall = "benchmarks/own_questions.jsonl"'}


def exchanges(problem: Any, measure: Any, plan: frozenset[int], order: Sequence[int], most: int) -> tuple[Any, bool]:
    """The plan that changes come to, as layers with windows, and whether none of them helps any more."""
    known: dict[frozenset[int], tuple[float, ...]] = {}

    def rank(layers: frozenset[int]) -> tuple[float, ...]:
        if layers not in known:
            (known[layers],) = (judged.rank for judged in measure([{i: int(i in layers) for i in order}], 1.0))
        return known[layers]

    def near(plan: frozenset[int]) -> Iterator[frozenset[int]]:
        inside, outside = [i for i in reversed(order) if i in plan], [i for i in order if i not in plan]
        yield from (plan | {i} for i in outside)
        yield from (plan - {i} | {j} for i, j in product(inside, outside))
        yield from (plan - {i} | set(two) for two in combinations(outside, 2) for i in inside)
        yield from (plan - {i} for i in inside if rank(plan)[0])

    while True:
        better = None
        for other in near(plan):
            if other not in known and len(known) >= most:
                return plan, False
            if rank(other) < rank(plan):
                better = other
                break
        if better is None:
            return plan, True
        plan = better


def planned(questions: str, tries: int) -> dict[str, Any]:
    """The figures of a plan; without `tries`, of the reference."""
    from lbdsl.api.planning import plan_text
    from lbdsl.session.model import OpenModel
    from lbdsl.solve.search import Found
    from lbdsl.solve.table import key_of

    ended: list[bool] = []

    def reference(problem: Any, measure: Any, **more: Any) -> Found:
        order = sorted(problem.options, key=lambda layer: problem.lost[layer, 1])
        joint = {}
        for start in range(STARTS):
            # By the scores, in two halves of them, and by chance.
            mixed = [order, order[::2] + order[1::2], order[1::2] + order[::2], Random(0).sample(order, len(order))][start]
            plan, end = exchanges(problem, measure, frozenset(mixed[: len(mixed) // 2]), mixed, MOST)
            ended.append(end)
            chosen = {i: int(i in plan) for i in order}
            joint[key_of(chosen)] = measure([chosen], 1.0)[0]
        ranked = sorted(joint.items(), key=lambda item: (item[1].rank, item[0]))
        return Found(dict(ranked[0][0]), 0.0, dict(ranked), float(MOST * STARTS))

    text = (
        f"lbr 1\nmeasure {{ tokens = 2Ki; {QUESTIONS[questions]}; tries = {tries or MOST * STARTS} }}\n"
        "choose for layers all among keep, swa(window=256, sinks=4)\n"
        "  minimizing kv(8Ki) subject to kl <= 0.05, recall <= 0.1\nelse keep\n"
    )
    with patch("lbdsl.session.choosing.search", reference) if not tries else patch.dict({}):
        plan = plan_text(text, str(ROOT / "least.lbr"), OpenModel(ROOT / MODEL)).plan
    assert plan.choice is not None
    bounds = {budget.text.split()[0]: budget.value for budget in plan.choice.budgets}
    windows = [layer.index for layer in plan.layers if layer.changed]
    found = {"kv": plan.choice.candidates[0].joint.value, "changed": len(windows), "windows": windows, **bounds}
    return found | ({"plans": plan.choice.spent} if tries else {"ended": sum(ended)})


def row(questions: str, tries: int) -> Row:
    def run(work: Path) -> dict[str, Any]:
        return planned(questions, tries)

    return Row(f"{questions}-{tries or 'reference'}", run)


TABLE = Table(
    title="the least cache of SmolLM2 within two bounds, by few tries and by exchanges",
    columns={"kv": ".1%", "changed": "d", "kl": ".3f", "recall": "+.3f", "plans": ".0f", "ended": "d"},
    rows=[row(questions, tries) for questions in QUESTIONS for tries in (*TRIES, 0)],
    measures=(*HEALING, *CHOOSING),
)
