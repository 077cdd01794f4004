"""The registry of metrics: each says where it may stand, and what it says is checked."""

from __future__ import annotations

import inspect
import math

import pytest

from lbdsl.core.measurement import Measurement
from lbdsl.core.units import Unit
from lbdsl.metrics import (
    DerivedMetric,
    LogitsMetric,
    Metric,
    Of,
    ResidualMetric,
    TaskMetric,
    check_declaration,
    metrics,
    metrics_of,
)
from lbdsl.plan.schema import AssertResult, ScoreValue
from lbdsl.plan.words import cell_text, joint_text, row_title, value_text
from lbdsl.recipe.load import recipe_from_text
from lbdsl.report.explain import parts_of


def test_where_each_may_stand() -> None:
    assert {of: set(metrics_of(of)) for of in Of} == {
        Of.LAYER: {"influence", "kl", "nll", "recall", "task"},
        Of.CHANGED: {"kl", "nll", "recall"},
        Of.FINISHED: {"agreement", "kl_healed", "needle", "ppl_increase", "recovery", "task"},
    }


@pytest.mark.parametrize("cls", metrics().values(), ids=metrics())
def test_each_has_a_page_whose_example_and_bound_are_good(cls: type[Metric]) -> None:
    title, facts = parts_of(cls.__doc__ or "")
    assert title.endswith(".")
    assert [head for head, _ in facts] == ["What", "Why", "Example", "Source"]
    for example in dict(facts)["Example"].split("`")[1::2]:
        assert recipe_from_text(example if example.startswith("assert") else f"{example}\nelse keep").ok
    task = issubclass(cls, TaskMetric)
    place = "where {} keep\nelse keep" if Of.LAYER in cls.of and not task else "assert {}\nelse keep"
    value = cls.form() if task else cls.kind
    assert recipe_from_text(place.format(f"{value} {cls.bound}")).ok
    missing = recipe_from_text(place.format(value)).diagnostics[0]
    assert f"compare it, as in `{value} {cls.bound}`" in missing.help


@pytest.mark.parametrize("sort", [LogitsMetric, ResidualMetric, DerivedMetric, TaskMetric])
def test_the_sorts_of_metrics_are_no_metrics(sort: type[Metric]) -> None:
    assert inspect.isabstract(sort) or not hasattr(sort, "kind")
    assert sort not in metrics().values()


class _Good(LogitsMetric):
    kind = "good"
    unit = Unit.NATS

    @staticmethod
    def per_token(base_logp_NV, changed_logp_NV, target_N):
        raise AssertionError("not measured here")


@pytest.mark.parametrize(
    ("base", "declared", "said"),
    [
        (_Good, {"kind": "sensitivity"}, "the language has that name already"),
        (_Good, {"kind": "kv"}, "the language has that name already"),
        (_Good, {"unit": "nats/token"}, "is 'nats/token', not a Unit"),
        (_Good, {"of": frozenset()}, "cannot be of nothing"),
        (_Good, {"of": frozenset({Of.CHANGED, Of.FINISHED})}, "of the finished model and of the whole changed model"),
        (ResidualMetric, {"kind": "x", "unit": Unit.NONE, "of": frozenset({Of.CHANGED})}, "of the whole changed model"),
        (DerivedMetric, {"kind": "x", "unit": Unit.NONE, "of": frozenset({Of.LAYER})}, "cannot be of a layer"),
    ],
)
def test_a_declaration_that_cannot_be_kept_is_refused(base: type[Metric], declared: dict, said: str) -> None:
    check_declaration(_Good)
    with pytest.raises(ValueError, match=said):
        check_declaration(type("_Bad", (base,), declared))


@pytest.mark.parametrize(
    ("rise", "increase"),
    [(math.log(1.05), 0.05), (0.0, 0.0), (1000.0, math.inf), (math.inf, math.inf), (math.nan, math.nan)],
)
def test_the_increase_of_perplexity(rise: float, increase: float) -> None:
    metric = metrics()["ppl_increase"]
    assert issubclass(metric, DerivedMetric)
    value, stderr = metric.value([Measurement(rise, 0.01, Unit.NATS, 10, 2)])
    assert value == pytest.approx(increase, nan_ok=True)
    assert stderr == pytest.approx(0.01 * (1 + increase), nan_ok=True)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0512, Unit.RATIO, "5.12 %"),
        (0.4731, Unit.NATS, "0.4731"),
        (1.5, Unit.NONE, "1.5"),
        (2**20, Unit.BYTES, "1.00 MiB"),
        (134_515_008, Unit.PARAMS, "134.5 M"),
        (134_515_008, Unit.FLOPS, "134.5 M"),
        (None, None, ""),
    ],
)
def test_a_gates_value_is_said_in_its_unit_whatever_its_text(value: float | None, unit: Unit | None, said: str) -> None:
    for text in ("100 MiB >= kv(1Ki)", "nll < 1 and ppl_increase < 5%"):
        assert value_text(AssertResult(text=text, phase="static", status="pass", value=value, unit=unit)) == said


@pytest.mark.parametrize(
    ("value", "stderr", "unit", "said"),
    [
        (0.0512, 0.004, "ratio", "5.12 ±0.40 %"),
        (0.0512, None, "ratio", "5.12 %"),
        (0.47314, 0.0021, "nats/token", "0.4731 ±0.0021"),
        (1.5, None, "number", "1.5000"),
        (None, None, "ratio", "not a number"),
    ],
)
def test_a_cell_of_a_table_says_its_unit(value: float | None, stderr: float | None, unit: str, said: str) -> None:
    assert cell_text(value, stderr, unit) == said


def test_rows_and_pictures_name_a_metric_by_its_title() -> None:
    assert [row_title(name, cls.unit) for name, cls in metrics_of(Of.FINISHED).items()] == [
        "top-1 agreement",
        "KL to the base, nats/token",
        "needle",
        "perplexity increase",
        "recovery",
        "task",
    ]
    assert row_title("not_loaded", "ratio") == "not_loaded"
    assert joint_text("kl", ScoreValue(value=0.4108, unit=Unit.NATS)) == "KL 0.411 nats/token"
    assert joint_text("not_loaded", ScoreValue(value=0.4108, unit=Unit.RATIO)) == "not_loaded 41.1 %"
