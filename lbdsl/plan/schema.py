"""A plan, as immutable values: what will be done to each layer, by which rule, and the predicted result.

A saved plan (`.lbplan`) is the canonical JSON of a `Plan`. Applying it does not repeat the selection.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from lbdsl.core.diagnostic import Severity
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.cost.profile import Profile
from lbdsl.layer.difference import differences, given_windows, marks_of
from lbdsl.parts import Mark
from lbdsl.plan.made_from import MeasuredOn, ModelRef, RecipeRef
from lbdsl.plan.recall import RecallLoss
from lbdsl.recipe.schema import Evaluate, Heal, Measure, Phase
from lbdsl.solve.select import Chosen, LayerChoice, PlanValue

FORMAT_VERSION = 2


class ScoreValue(PlanValue):
    """A measured score of one layer or of the whole changed model, mean over tokens, with its clustered standard error
    (None: one sequence only)."""

    value: float
    stderr: float | None = None
    unit: Unit

    @classmethod
    def of(cls, found: Measurement) -> ScoreValue:
        return cls(value=found.value, stderr=found.stderr if math.isfinite(found.stderr) else None, unit=found.unit)


class LayerPlan(LayerChoice):
    """A layer of the plan: besides the choice, its scores, keyed by the score's text, and its costs before and after;
    `weights_before` and `weights_after` in bytes."""

    scores: dict[str, ScoreValue] = {}
    params_before: int
    params_after: int
    weights_before: int
    weights_after: int
    kv_bytes_before: dict[str, int]
    kv_bytes_after: dict[str, int]

    @property
    def marks(self) -> dict[str, Mark]:
        """The layer's mark in each row of a plan's picture."""
        return marks_of(self.before, self.after)

    def to_json(self) -> dict[str, Any]:
        """The fields that programs may rely on; `changes` gives [before, after] by path."""
        known = self.model_dump(mode="json", exclude={"actions", "weights", "scores", "reason"})
        return {
            **{name: known.pop(name) for name in ("index", "before", "after")},
            "changes": {path: list(pair) for path, pair in differences(self.before, self.after).items()},
            "actions": [{"action": a.action.text(), "rule": a.rule, "paths": list(a.paths)} for a in self.actions],
            "new_weights": sorted(self.weights),
            "scores": {name: score.value for name, score in self.scores.items()},
            "stderr": {name: score.stderr for name, score in self.scores.items()},
            **known,
            "reason": self.reason,
        }


class RuleReport(PlanValue):
    """A rule with the layers it got, and those that it matched but an earlier rule claimed. `modules` counts the
    modules whose weights it got."""

    number: int
    text: str
    because: str | None = None
    claims: tuple[int, ...]
    shadowed: tuple[int, ...]
    modules: int = 0


class Totals(PlanValue):
    """Costs of a whole model. Maps are keyed by the context in tokens, as text. `weights` is in bytes, as stored;
    `kv_bytes` is of one sequence in the model's dtype; `flops_per_token` of one decoded token at that context."""

    params: int
    weights: int
    kv_bytes: dict[str, int]
    flops_per_token: dict[str, int]


@dataclass(frozen=True)
class Cost:
    """A cost of the base, and of the model that the plan makes of it."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """What is left of the base's; infinite where it has none."""
        return self.after / self.before if self.before else math.inf


@dataclass(frozen=True)
class Costs:
    """The costs of a whole model before and after, as in `Totals`; maps are keyed by the context in tokens."""

    params: Cost
    weights: Cost
    kv_bytes: Mapping[int, Cost]
    flops_per_token: Mapping[int, Cost]


class Speed(PlanValue):
    """Upper bounds on the decode gain, predicted from bytes, FLOPs and calibrated constants; never measured."""

    context: int
    batch: int
    bound: float


class Estimate(PlanValue):
    """The predicted cost of applying the plan on the machine that made it: seconds of healing and of evaluation (0: none,
    None if this machine has not run the model yet), bytes of memory and of disk, those of memory that it has
    (None: not healed), and the number of healing passes over the text (None: not known, or no healing)."""

    heal_seconds: float | None
    judge_seconds: float | None
    memory_bytes: int
    disk_bytes: int
    passes: float | None = None
    machine_bytes: int | None = None


class Served(PlanValue):
    """Whether an engine can serve the plan's result: through which exports, or what prevents it."""

    engine: str
    formats: tuple[str, ...]
    obstacle: str | None = None


class Loss(PlanValue):
    """The damage before healing: `scores` has every metric of the whole changed model by name, on `tokens` tokens; it is
    empty if nothing is measured. In nats per token, `base_nll` is the base's loss on that text, and `sum` the sum of the
    single-layer loss rises (None if a layer has no score)."""

    scores: dict[str, ScoreValue] = {}
    base_nll: float | None = None
    sum: float | None = None
    tokens: int = 0

    def __getitem__(self, name: str) -> float:
        """The value of a score: `loss["kl"]`."""
        return self.scores[name].value

    @property
    def rise(self) -> ScoreValue | None:
        """The rise of the next-token loss; None if nothing is measured."""
        return self.scores.get("nll")

    @property
    def values(self) -> dict[str, float]:
        return {name: score.value for name, score in self.scores.items()}

    @property
    def others(self) -> dict[str, ScoreValue]:
        """All scores except that of the next-token loss."""
        return {name: score for name, score in self.scores.items() if name != "nll"}


class Budget(PlanValue):
    """A budget of `choose`: the cost that decides it, in `unit`, or as a `share` of the base's; `between`: what that may
    be, if it is predicted; `without` is the least sum of scores if it were left out. Of a bound on what is measured, the
    value with its `stderr`, the `room` that it leaves under the bound, and what it is on the text and questions of
    `Plan.loss`, on which the best plans were compared."""

    text: str
    value: float | None = None
    unit: Unit | None = None
    share: float | None = None
    between: tuple[float, float] | None = None
    without: float | None = None
    stderr: float | None = None
    elsewhere: ScoreValue | None = None
    room: float | None = None


class Candidate(PlanValue):
    """A whole plan that was measured. `strip` has the number of each layer's alternative, or None; `joint` is what is
    minimized, of a cost its share of the base's, and `bounds` what has a bound, by name; `kept`: whether it keeps them."""

    strip: tuple[int | None, ...]
    sum: float
    joint: ScoreValue
    bounds: dict[str, ScoreValue] = {}
    kept: bool = True


class Choice(PlanValue):
    """What a `choose` did. `weights` are those of the metrics that it adds up. `unserved` are the alternatives that no
    format of an engine has, by its budget. `sum` is that of the chosen scores of single layers (of a cost, its change as a
    share of the base's), `least` the least possible; `candidates` are the best plans of those measured jointly on `tokens`
    of calibration text and by `questions`, the chosen one first: their values flatter. `compared` of them were measured on
    the text of `Plan.loss`, too, where the least was taken: with more than one it flatters a little. `spent` is how
    many were measured; `stopped`: it was interrupted. Where the search found another plan than that with the least sum,
    `passed_over` is the value of the one of them that was not taken, on the text of `Plan.loss`; `searched`: the search's
    was taken."""

    metric: str
    weights: dict[str, float] = {}
    alternatives: tuple[str, ...]
    unserved: dict[str, tuple[int, ...]] = {}
    compared: int = 1
    layers: tuple[int, ...]
    sum: float
    least: float
    budgets: tuple[Budget, ...]
    candidates: tuple[Candidate, ...] = ()
    tokens: int = 0
    questions: int = 0
    spent: float = 0.0
    stopped: bool = False
    searched: bool = False
    passed_over: ScoreValue | None = None


Status = Literal["pass", "pass, by less than its error", "fail", "undecided", "after healing", "not measured"]
BARELY: Status = "pass, by less than its error"


class AssertResult(PlanValue):
    """The result of an assert. `value` is the cost or score that decides it, in `unit`; both are None until it is known. A
    cost whose bound is a percentage is a ratio to the base's. An assert on scores is "not measured" while the plan has no
    joint loss. `on` is the deciding text, if there are several.

    Of the finished model: `error` is the value's standard error, `why` the reason for a failure that the value does not
    show, `help` what may be done. Where its bound lies within the error a failed assert is "undecided", and one that holds
    is `BARELY`: both count as undecided. `between`: what a
    predicted value may be; the assert is held against the worse end."""

    text: str
    phase: Phase
    status: Status
    value: float | None = None
    unit: Unit | None = None
    on: str | None = None
    error: float | None = None
    why: str | None = None
    help: tuple[str, ...] = ()
    between: tuple[float, float] | None = None

    @model_serializer(mode="wrap")
    def _without_empty(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Most have none of the last four."""
        empty = "error", "why", "help", "between"
        fields: dict[str, Any] = as_usual(self)
        return {name: value for name, value in fields.items() if value not in (None, (), []) or name not in empty}

    @property
    def failed(self) -> bool:
        return self.status in ("fail", "undecided")

    @property
    def undecided(self) -> bool:
        return self.status in ("undecided", BARELY)


class Finding(PlanValue):
    """A diagnostic of planning, kept so that a saved plan shows it again. `line` is the recipe's, from 1, or
    that of the included file at `file`."""

    code: str
    severity: Severity
    message: str
    help: tuple[str, ...] = ()
    line: int | None = None
    file: str | None = None


def counted_changes(layers: tuple[LayerPlan, ...]) -> dict[str, int]:
    """The number of layers by kind of change, named as in their marks; by row, dropped parts first."""
    counts: dict[str, Counter[tuple[bool, str]]] = {}
    for layer in layers:
        for row, mark in layer.marks.items():
            of_row = counts.setdefault(row, Counter())
            if mark.counted:
                of_row[mark.style != "drop", mark.counted] += 1
    return {words: of_row[key] for of_row in counts.values() for key in sorted(of_row) for words in key[1:]}


PREDICTED = ("speeds", "estimate", "serving")
"""Fields of a plan that its digest excludes: predictions for one machine, and for serving engines."""


class Plan(Chosen, PlanValue):
    """A whole plan. `changes` counts layers by the change to a part of them (`windowed`), in the order of the parts.
    `statistics` has the sha256 of each calibration statistic that new weights are computed from, `profiles` those of the
    engines that values are predicted from, `judged_on` the sha256 of each text, needle and task of `eval`, by name (None:
    not kept).
    `complete`: nothing is left to measure; `applyable`: complete, no static or measured assert failed, and no error was
    found; `errored`: errors were found. See `PREDICTED` for the last three fields."""

    format_version: int = FORMAT_VERSION
    lbdsl_version: str
    recipe: RecipeRef
    model: ModelRef
    measured_on: MeasuredOn | None
    layers: tuple[LayerPlan, ...]
    rules: tuple[RuleReport, ...]
    before: Totals
    after: Totals
    contexts: tuple[int, ...]
    loss: Loss
    recall: RecallLoss | None = None
    asserts: tuple[AssertResult, ...] = ()
    measure: Measure
    heal: Heal | None = None
    eval: Evaluate | None = None
    judged_on: dict[str, str] | None = None
    findings: tuple[Finding, ...] = ()
    statistics: dict[str, str] = {}
    profiles: dict[str, Profile] = {}
    choice: Choice | None = None
    changes: dict[str, int]
    complete: bool
    applyable: bool
    errored: bool
    speeds: tuple[Speed, ...] = ()
    estimate: Estimate | None = None
    serving: tuple[Served, ...] = ()

    @model_serializer(mode="wrap")
    def _as_it_was(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The digest of a plan of an earlier version is of the fields that it had."""
        fields: dict[str, Any] = as_usual(self)
        if self.judged_on is None:
            fields.pop("judged_on", None)
        return fields

    @property
    def joint(self) -> dict[str, float]:
        """The values of the whole changed model that asserts compare, by name."""
        return self.loss.values | ({"recall": self.recall.value} if self.recall is not None else {})

    @property
    def costs(self) -> Costs:
        """`before` and `after` side by side."""
        one, other = self.before, self.after

        def by_context(name: str) -> dict[int, Cost]:
            return {ctx: Cost(getattr(one, name)[str(ctx)], getattr(other, name)[str(ctx)]) for ctx in self.contexts}

        params, weights = Cost(one.params, other.params), Cost(one.weights, other.weights)
        return Costs(params, weights, by_context("kv_bytes"), by_context("flops_per_token"))

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of all fields above, except `PREDICTED`."""
        return digest_of(self.model_dump(mode="json", exclude=set(PREDICTED)))

    def to_json(self) -> dict[str, Any]:
        """The fields that programs may rely on; `format_version` increases when one changes its meaning. Bytes of cache and
        FLOPs are per sequence, keyed by its length in tokens, as text; `weights` is in bytes; losses are in nats/token."""
        hidden: dict[str, Any] = {"recipe": {"text", "included"}, "model": {"name", "facts"}}
        hidden |= dict.fromkeys(("layers", "contexts", "measure"), True)
        known = self.model_dump(mode="json", exclude=hidden)
        first = {name: known.pop(name) for name in ("format_version", "lbdsl_version")}
        then = {name: known.pop(name) for name in ("recipe", "model", "measured_on")}
        return {**first, "digest": self.digest, **then, "layers": [layer.to_json() for layer in self.layers], **known}

    def __repr__(self) -> str:
        name = self.recipe.name or os.path.basename(self.recipe.path)
        return f"<Plan: {name} of {self.model.name or self.model.source}: {self.summary}>"

    @property
    def scored(self) -> bool:
        """Whether anything was measured, or calibrated, on the calibration text."""
        return self.measured_on is not None and self.measured_on.digest is not None

    @property
    def changed(self) -> tuple[LayerPlan, ...]:
        """The layers that are changed."""
        return tuple(layer for layer in self.layers if layer.changed)

    @property
    def summary(self) -> str:
        """`5 of 30 layers unchanged; 8 without attention, 16 windowed`."""
        left = len(self.layers) - len(self.changed)
        # A dictionary read from a file may have another order.
        said = ", ".join(f"{count} {words}" for words, count in counted_changes(self.layers).items())
        return f"{left} of {len(self.layers)} layers unchanged" + (f"; {said}" if said else "")

    @property
    def windowed(self) -> bool:
        """Whether the plan gives a layer a window."""
        return bool(given_windows(self.model.facts.layer_specs, self.specs))
