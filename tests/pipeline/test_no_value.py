"""Models that compute NaN, infinity, or the same for every input, against all that is measured, judged and gated."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from lbdsl.api.planning import read_recipe
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.progress import progress_of
from lbdsl.core.units import Unit
from lbdsl.evaluate.quality import judge_on
from lbdsl.evaluate.tasks import ask
from lbdsl.measure.layer_source import LayerSource, LoadedModel
from lbdsl.measure.store import open_store
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.metrics import Metric, Of, TaskMetric, metrics_of
from lbdsl.plan.gates import failures, gate_of
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions
from lbdsl.session.texts import eval_blocks, eval_tests
from lbdsl.solve.case import Case
from tests.broken_models import KINDS, SPECIAL, save_breaking

WITHOUT_VALUE = ("nan", "inf")
slow = partial(pytest.param, marks=pytest.mark.slow)
# By default each kind in memory and NaN from disk, too; the rest of the matrix is slow.
EACH = [
    *((slow if kind in ("inf", "one token") else pytest.param)(kind, "in memory") for kind in KINDS),
    *((slow if kind != "nan" else pytest.param)(kind, "streamed") for kind in KINDS),
]

YAML = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: own.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: METRIC}]
"""
WRITING = (
    YAML[: YAML.index("output_type")]
    + """output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "!!!!"
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""
)
"""A model of NaNs writes token 0 alone, which is this answer."""

TASKS = {
    "own.yaml": YAML.replace("METRIC", "acc"),
    "norm.yaml": YAML.replace("METRIC", "acc_norm"),
    "written.yaml": WRITING,
}

MEASURE = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64; questions = 12 }\n'
CHANGED = f"lbr 1\n{MEASURE}layers 3 drop(block)\nelse keep\n"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[object, ...], Path] = {}

    def model(kind: str, **how: bool) -> Path:
        key = (kind, *sorted(how.items()))
        if key not in made:
            made[key] = save_breaking(tmp_path_factory.mktemp("broken") / "model", kind, **how)
        return made[key]

    return model


@pytest.fixture
def place(workplace: Path) -> Path:
    """With tasks whose answers are made of the same letters, the first of them right: what a model that always says the
    same cannot tell apart; and a text with the special character."""
    for name, text in TASKS.items():
        Path(name).write_text(text)
    letters = ("abcd", "bead", "cafe", "dune", "echo", "fig.")
    rows = (
        {"text": f"{n} and {word}:", "choices": [f" {word}", f" {word[::-1]}"], "answer": 0}
        for n, word in enumerate(letters * 2)
    )
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("odd.txt").write_text(f"An odd {SPECIAL} word in a plain text. " * 100)
    return workplace


def forms(metric: type[Metric], tasks: Iterable[str]) -> Iterator[str]:
    """What stands in an assert for a metric: of each task, where it takes one."""
    form = metric.form().replace("4Ki", "256") if issubclass(metric, TaskMetric) else metric.kind
    yield from [form.replace("hellaswag", name) for name in tasks] if "hellaswag" in form else [form]
    if metric.kind == "recovery":
        yield "recovery(needle(256))"


def asserts(*, lenient: bool, tasks: Iterable[str]) -> list[str]:
    """For every metric of the finished model: its example bound, or one that every number keeps."""
    found = []
    for metric in metrics_of(Of.FINISHED).values():
        for form in forms(metric, tasks):
            big = "1000000%" if metric.unit is Unit.RATIO else "1000000"
            found += [f"{form} {metric.bound}"] if not lenient else [f"{form} < {big}", f"not {form} >= {big}"]
    return found


def recipe_with(lines: list[str], evaluating: str) -> str:
    return CHANGED + f"eval {{ {evaluating} }}\n" + "".join(f"assert {line}\n" for line in lines)


def source_of(folder: Path, held: str) -> LayerSource:
    bench = OpenModel(folder, RunOptions(low_memory=held == "streamed"))
    found = bench.measured_base
    assert isinstance(found, StreamedModel if held == "streamed" else LoadedModel)
    return found


def judged(place: Path, base: Path, artifact: Path, lines: list[str], held: str) -> SimpleNamespace:
    """The results of asserts on a finished model, which a base is judged beside."""
    Path("r.lbr").write_text(recipe_with(lines, "tokens = 256; seq = 64"))
    from lbdsl.api.planning import plan_recipe

    planned = plan_recipe("r.lbr", base, options=RunOptions())
    wanted, bench = planned.recipe.eval, planned.bench
    before, after = source_of(base, held), source_of(artifact, held)
    texts = eval_blocks(wanted, planned.recipe.measure, None, bench, place)
    quality = judge_on(before, after, texts, "judging", progress_of(None))
    answers = ask(before, after, eval_tests(wanted, bench, place), progress_of(None))
    gate = gate_of(planned.plan, planned.recipe, bench.facts)
    results = gate({one.data: one.scores for one in quality}, {one.name: one.post_scores() for one in answers})
    return SimpleNamespace(results=results, answers={one.name: one for one in answers}, quality=quality)


@pytest.mark.parametrize(("kind", "held"), EACH)
def test_every_metric_of_a_broken_result_fails_by_name(place: Path, models, kind: str, held: str) -> None:
    base, artifact = models(kind), models(kind, whole=True)
    # One token again and again is the answer to that task.
    tasks = [name for name in TASKS if held == "in memory" and not (name == "written.yaml" and kind == "one token")]
    lines = asserts(lenient=kind in WITHOUT_VALUE, tasks=tasks)
    found = judged(place, base, artifact, lines, held)
    for task in found.answers.values():
        # The base has right answers, which could be recovered.
        assert task.base.value > 0 or "needle" in task.name or "written" in task.name, task.name
    assert [item.text for item in found.results] == lines
    for item in found.results:
        assert item.failed, item
        if kind in WITHOUT_VALUE:
            # By `recovery` of what the base has not, too.
            assert item.value is None
            assert "is not finite" in item.why or "the base itself has no right answer" in item.why
    said = "\n".join(problem.message for problem in failures(found.results))
    for line in lines:
        assert f"assert {line}" in said
    if kind not in WITHOUT_VALUE:
        assert found.quality[0].scores["agreement"].value < 0.01


@pytest.mark.parametrize("held", ["in memory", "streamed"])
@pytest.mark.parametrize("kind", WITHOUT_VALUE)
def test_a_broken_base_is_refused_before_anything_is_judged(place: Path, models, kind: str, held: str) -> None:
    sound, broken = models(kind), models(kind, whole=True)
    bench = OpenModel(sound)
    Path("r.lbr").write_text(recipe_with([], 'tokens = 256; seq = 64; needle = 256; tasks = "own.yaml"'))
    from lbdsl.plan.lengths import with_lengths

    recipe = with_lengths(Case(read_recipe("r.lbr", None).unwrap(), bench.facts)).unwrap().recipe
    base, artifact = source_of(broken, held), source_of(sound, held)
    texts = eval_blocks(recipe.eval, recipe.measure, None, bench, place)
    ways = [partial(judge_on, base, artifact, texts, "judging", progress_of(None))]
    tests = [test for test in eval_tests(recipe.eval, bench, place) if base.in_memory or "needle" in test.name]
    ways += [partial(ask, base, artifact, [test], progress_of(None)) for test in tests]
    assert len(ways) == (3 if base.in_memory else 2)
    for way in ways:
        with pytest.raises(LbdslError) as refused:
            way()
        assert refused.value.diagnostics[0].code == "LB451"


JOINT, TASK = ("`nll` of the whole changed model", "`kl` of the whole changed model"), ('`task("own.yaml"',)
MEASURED = {
    "lowest 1 by nll(drop(block)) drop(block)\nelse keep": ("`nll(drop(block))` of layer 3 is",),
    "lowest 1 by kl(drop(block)) drop(block)\nelse keep": ("`kl(drop(block))` of layer 3 is",),
    'lowest 1 by task("own.yaml", drop(block)) drop(block)\nelse keep': TASK,
    "layers 3 drop(block)\nelse keep": JOINT,
    "layers 3 drop(block)\nelse keep\nassert nll < 1000000\nassert not kl > 1000000": JOINT,
    "choose for layers 3 among keep, drop(block) minimizing nll subject to params <= 99%": ("`nll",),
    'choose for layers 3 among keep, drop(block) minimizing task("own.yaml") subject to params <= 99%': TASK,
    # It is of the base, which is sound; what it chooses is measured jointly.
    "highest 1 by influence(block) drop(block)\nelse keep": (),
}
"""All that is measured before a model is changed: scores of each kind, the joint loss with asserts and without; and what is
said without a value."""

BREAKING = {"nan": "===-==", "inf": "==-===|===-=="}
"""The layers without which a model has no value, in the picture of a plan."""


@pytest.mark.parametrize("low", [pytest.param((), id="in memory"), slow(("--low-memory",), id="streamed")])
@pytest.mark.parametrize("kind", WITHOUT_VALUE)
def test_a_score_without_a_value_is_an_error(place: Path, lbdsl, models, kind: str, low: tuple[str, ...]) -> None:
    for rules, said in MEASURED.items():
        Path("r.lbr").write_text(f"lbr 1\n{MEASURE}{rules}\n")
        done = lbdsl("plan", "r.lbr", models(kind), *low)
        if not said:
            broken = re.search(f"attn +({BREAKING[kind]})", done.out) is not None
            assert (done.code, "LB306" in done.err) == ((1, True) if broken else (0, False)), done.err
            continue
        assert (done.code, "LB306" in done.err) == (1, True), (rules, done.err)
        assert any(line in done.err for line in said), (rules, done.err)


@pytest.mark.parametrize("kind", ["constant", "one token"])
def test_a_layer_without_which_all_is_the_same_scores_worst(place: Path, lbdsl, models, kind: str) -> None:
    for metric in ("nll", "kl", 'task("own.yaml"'):
        form = f"{metric}, drop(block))" if "(" in metric else f"{metric}(drop(block))"
        Path("r.lbr").write_text(f"lbr 1\n{MEASURE}highest 1 by {form} drop(block)\nelse keep\n")
        done = lbdsl("plan", "r.lbr", models(kind), "--json")
        assert done.code == 0, done.err
        layers = json.loads(done.out)["layers"]
        scores = {layer["index"]: value for layer in layers for value in layer["scores"].values()}
        assert all(math.isfinite(value) for value in scores.values())
        if "task" in metric:
            # Nothing is right where all answers are alike: all that the base has is lost.
            assert scores[3] == max(scores.values()) > 0
    Path("r.lbr").write_text(f"{CHANGED}assert nll < 1\n")
    done = lbdsl("plan", "r.lbr", models(kind))
    assert (done.code, "LB322" in done.err) == (5, True), done.err


@pytest.mark.parametrize("low", [pytest.param((), id="in memory"), slow(("--low-memory",), id="streamed")])
@pytest.mark.parametrize("kind", WITHOUT_VALUE)
def test_a_broken_base_is_refused_before_anything_is_measured(
    place: Path, lbdsl, models, new_cache, kind: str, low: tuple[str, ...]
) -> None:
    cache = new_cache(place / "cache")
    for rules in MEASURED:
        Path("r.lbr").write_text(f"lbr 1\n{MEASURE}{rules}\n")
        done = lbdsl("plan", "r.lbr", models(kind, whole=True), "--cache-dir", cache, *low)
        assert (done.code, "LB451" in done.err) == (6, True), (rules, done.err)
    with open_store(cache) as store:
        assert store._connection.execute("SELECT count(*) FROM sums").fetchone() == (0,)
    done = lbdsl("eval", models(kind, whole=True), "--tokens", "256", "--seq", "64", *low)
    assert (done.code, "LB451" in done.err) == (6, True), done.err


CASES = [("constant", False), ("one token", False), ("nan", True)]


@pytest.mark.parametrize("low", [pytest.param((), id="in memory"), slow(("--low-memory",), id="streamed")])
@pytest.mark.parametrize(("kind", "special"), CASES, ids=[kind for kind, _ in CASES])
def test_a_broken_result_is_set_aside(place: Path, lbdsl, models, kind: str, special: bool, low: tuple[str, ...]) -> None:
    lines = asserts(lenient=False, tasks=[] if low else ["own.yaml"])
    Path("r.lbr").write_text(recipe_with(lines, 'data = "odd.txt"; tokens = 256; seq = 64'))
    done = lbdsl("apply", "r.lbr", models(kind, special=special), "-o", "out", "--yes", *low)
    assert done.code == 4, done.err
    assert not Path("out").exists()
    err = " ".join(done.err.split())
    for line in lines:
        assert f"assert {line}" in err
    if special:
        for metric in ("ppl_increase", "kl_healed", "agreement"):
            assert f"`{metric}` is not finite" in err
        assert "not a number" in done.out
    # What the record says of it can be shown, and judged again.
    assert lbdsl("show", "out.rejected").code == 0
    again = lbdsl("eval", "out.rejected", "--json", *low)
    assert (again.code, again.err.count("LB468")) == (4, len(lines)), again.err
    assert {item["status"] for item in json.loads(again.out)["asserts"]} == {"fail"}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "special"), CASES, ids=[kind for kind, _ in CASES])
def test_a_broken_result_of_two_processes_is_set_aside(place: Path, models, kind: str, special: bool) -> None:
    lines = asserts(lenient=False, tasks=["own.yaml"])
    Path("r.lbr").write_text(recipe_with(lines, 'data = "odd.txt"; tokens = 256; seq = 64'))
    together = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lbdsl")
    words = ("apply", "r.lbr", models(kind, special=special), "-o", "out", "--yes", "--quiet")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run((*together, *words), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0
    assert not Path("out").exists()
    record = json.loads(Path("out.rejected/lbdsl.json").read_text())
    assert {item["status"] for item in record["asserts"]} == {"fail"}
    for line in lines:
        assert " ".join(done.stderr.split()).count(f"assert {line}") == 1, done.stderr
