"""`lbdsl init`: starter recipes for tiny models of several families, and for shapes of real ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbdsl.api.inspecting import inspect_model
from lbdsl.api.starting import recipe_for, starting_recipe
from lbdsl.cli.init import init
from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.facts import ModelFacts
from lbdsl.language.format import format_text
from lbdsl.plan.findings import static_findings
from lbdsl.plan.lengths import with_lengths
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.schema import Choosing
from lbdsl.solve.case import Case
from tests.family_cases import each_family, family_base
from tests.model_cases import edit_json, save_gguf, save_llama, tiny_llama
from tests.plan_cases import llama_facts, plan_of, windowed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=each_family())
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / request.param
    family_base(request.param).save_pretrained(folder)
    return folder


def judge(text: str, facts: ModelFacts) -> None:
    """Nothing is found in the recipe, nothing about it on the model, and its static asserts hold whatever is measured."""
    assert format_text(text).unwrap() == text
    assert recipe_from_text(text).diagnostics == ()
    recipe = recipe_from_text(text).unwrap()
    assert Case(recipe, facts).problems == ()
    # Its sequences show what its windows do, and it is judged at the context that it is about, on other text.
    assert with_lengths(Case(recipe, facts)).diagnostics == ()
    for rule in recipe.rules:
        for action in rule.actions:
            assert [
                found for layer in range(facts.layers) for found in action.check(facts, layer) if found.code == "LB326"
            ] == []
    for scores in (range(facts.layers), range(facts.layers, 0, -1), [(7 * i) % 5 for i in range(facts.layers)]):
        plan = plan_of(text, facts, nll=[0.01 * score for score in scores])
        assert [item.status for item in plan.asserts if item.phase == "static"] == ["pass"]
        assert any(layer.changed for layer in plan.layers)


def test_every_family(family_folder: Path) -> None:
    start = starting_recipe(str(family_folder))
    facts = inspect_model(str(family_folder)).facts
    judge(start.text, facts)
    assert f'requires model.family == "{facts.family}" and model.layers == 4' in start.text


SHAPES = {
    "smollm2": llama_facts(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, positions=8192),
    "llama3-8b": llama_facts(
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate=14336,
        vocab=128256,
        positions=131072,
        tied=False,
    ),
    "mistral": llama_facts(layers=32, positions=32768, native_window=4096),
    "gemma3": windowed(llama_facts(layers=26, positions=32768), [None if i % 6 == 5 else 512 for i in range(26)]),
    "odd positions": llama_facts(layers=24, positions=40960),
    "three layers": llama_facts(layers=3, positions=2048),
    "one layer": llama_facts(layers=1, positions=4000),
    "few positions": llama_facts(layers=12, positions=8),
    "tiny window": llama_facts(layers=5, positions=64, native_window=9),
    "one full layer": windowed(llama_facts(layers=8, positions=1024), (64,) * 7 + (None,)),
    "a layer without attention": windowed(llama_facts(layers=6), (None, 0, None, None, None, None)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(tmp_path: Path, name: str) -> None:
    save_llama(tmp_path / "some model!")
    found = inspect_model(str(tmp_path / "some model!"))
    facts = SHAPES[name]
    text = recipe_for(replace(found, facts=facts))
    judge(text, facts)
    assert text.splitlines()[0].startswith("# A start for some-model: llama, ")


def test_what_a_real_shape_gets() -> None:
    text = recipe_for(replace(_some(), facts=SHAPES["llama3-8b"]))
    assert "param $window: tokens in 128..64Ki = 1Ki\n" in text
    assert "lowest 21 by recall(swa(window=$window, sinks=4)) swa(window=$window, sinks=learned)\n" in text
    assert "tokens = 2M" in text
    assert "screen" not in text, "it needs the whole model in memory"
    text = recipe_for(replace(_some(), facts=SHAPES["gemma3"]))
    assert 'layers 0-4, 6-10, 12-16, 18-22, 24-25 keep because "these do not attend to all tokens"\n' in text


def test_windows_are_ranked_by_what_they_do_and_gated_on_what_stands_beyond_them() -> None:
    for name, asked in (("smollm2", "2Ki"), ("llama3-8b", "4Ki"), ("three layers", "1Ki"), ("few positions", None)):
        found = replace(_some(), facts=SHAPES[name])
        text = recipe_for(found)
        gates = [line for line in text.splitlines() if line.startswith("assert recovery")]
        assert gates == ([f"assert recovery(needle({asked})) >= 80%"] if asked else []), name
        (rank,) = (line for line in text.splitlines() if line.startswith("lowest"))
        by_recall = " by recall(swa(window=$window, sinks=4)) swa(window=$window, sinks=learned)"
        assert rank.endswith(by_recall if asked else " by kl(swa(window=$window)) swa(window=$window)"), name
        assert ('"builtin:recall"' in text) is (asked is not None), name


def test_the_plain_starter_has_the_form_of_quickstart() -> None:
    """Its layers, score, action, data and kinds of gates; the sizes of windows and budgets are larger."""
    quick = recipe_from_text((ROOT / "recipes" / "quickstart.lbr").read_text()).unwrap()
    start = recipe_from_text(recipe_for(replace(_some(), facts=SHAPES["smollm2"]))).unwrap()
    said = [
        re.sub(
            r"window=\d+",
            "window=N",
            " ".join([rule.selector.span.text.replace("$window", "512"), *map(str, rule.actions)]),
        )
        for recipe in (quick, start)
        for rule in recipe.rules
    ]
    assert said[:2] == said[2:]
    for one, other in zip(quick.asserts, start.asserts, strict=True):
        assert one.text.split("(")[0].split(" ")[0] == other.text.split("(")[0].split(" ")[0]
    assert quick.measure.strategy == start.measure.strategy == "screen"
    goal = recipe_for(replace(_some(), facts=SHAPES["smollm2"]), ("kv(8Ki) <= 40%",))
    assert goal.endswith("assert recovery(needle(2Ki)) >= 80%\n")
    assert "minimizing kl + 0.2 * recall" in goal
    assert "tries = 24" in goal
    assert '"builtin:recall"' in goal
    few = recipe_for(replace(_some(), facts=SHAPES["few positions"]), ("kv(64) <= 40%",))
    assert "recall" not in few


def _some():
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_llama(Path(folder, "m"))
        return inspect_model(str(Path(folder, "m")))


def test_models_that_leave_nothing_to_change() -> None:
    for facts in (llama_facts(positions=4), windowed(llama_facts(layers=2), (0, 0))):
        with pytest.raises(LbdslError, match="LB048"):
            recipe_for(replace(_some(), facts=facts))


# The verb ------------------------------------------------------------------------------------------------------------


def run(*arguments: object):
    return CliRunner().invoke(init, [str(argument) for argument in arguments])


def test_files_are_not_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_llama(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    done = run("m")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Wrote m-start.lbr" in done.stderr
    assert "lbdsl plan m-start.lbr m" in done.stderr
    file = tmp_path / "m-start.lbr"
    text = file.read_text()
    assert run("m", "-o", "-").stdout == text
    assert run("m").exit_code == 0  # the same text again
    file.write_text("else keep\n")
    refused = run("m")
    assert [problem.code for problem in refused.exception.diagnostics] == ["LB046"]
    assert file.read_text() == "else keep\n"
    assert run("m", "--force").exit_code == 0
    assert file.read_text() == text
    missing = run("none")
    assert [problem.code for problem in missing.exception.diagnostics] == ["LB400"]


def test_gguf(tmp_path: Path) -> None:
    save_gguf(tmp_path / "tiny-Q4_1.gguf", tiny_llama())
    assert 'recipe "tiny-start"' in run(tmp_path / "tiny-Q4_1.gguf", "-o", "-").stdout


def test_an_artifact_needs_no_start(tmp_path: Path) -> None:
    save_llama(tmp_path / "m")
    (tmp_path / "m" / "lbdsl.json").write_text("{}")
    refused = run(tmp_path / "m", "-o", "-")
    assert [problem.code for problem in refused.exception.diagnostics] == ["LB467"]


def test_broken_models_are_refused_as_inspect_refuses_them(tmp_path: Path) -> None:
    save_llama(tmp_path / "m")
    edit_json(tmp_path / "m" / "config.json", model_type="bloom")
    refused = run(tmp_path / "m", "-o", "-")
    assert [problem.code for problem in refused.exception.diagnostics] == ["LB403"]
    assert refused.exception.exit_code == 6


def test_init_loads_no_torch_and_the_recipe_checks(tmp_path: Path) -> None:
    save_llama(tmp_path / "m")
    code = (
        "import sys; from lbdsl.cli.app import main\ntry: main(sys.argv[1:])\n"
        "finally: print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers'}))"
    )
    recipe = str(tmp_path / "m.lbr")
    done = subprocess.run(
        [sys.executable, "-c", code, "init", str(tmp_path / "m"), "-o", recipe],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    checked = subprocess.run(
        [sys.executable, "-m", "lbdsl", "check", "--strict", "--format", "json", recipe],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)["diagnostics"] == []


FINISHED = {
    "an eighth and a quarter of the context": (
        ("recovery(needle(4Ki)) >= 90%", "weights <= 100%"),
        "among keep, swa(window=1Ki, sinks=4, full_heads=1), swa(window=1Ki, sinks=4), "
        "swa(window=512, sinks=4, full_heads=1), swa(window=512, sinks=4)",
        # -log(0.9) nats an answer.
        "minimizing kv(8Ki) subject to weights <= 100%, kl <= 0.095, recall <= 0.11",
    ),
    "sinks that vLLM serves": (
        ('serves("vllm") and recovery(needle(1Ki)) >= 0.8',),
        "among keep, swa(window=256, sinks=learned), swa(window=128, sinks=learned)",
        'minimizing kv(8Ki) subject to serves("vllm"), kl <= 0.095, recall <= 0.22',
    ),
    "full heads, which vLLM serves with lbdsl beside it": (
        ('serves("vllm+lbdsl") and recovery(needle(1Ki)) >= 0.8',),
        "swa(window=128, sinks=learned, full_heads=1), swa(window=128, sinks=learned)",
        'minimizing kv(8Ki) subject to serves("vllm+lbdsl"), kl <= 0.095, recall <= 0.22',
    ),
    "perplexity": (("ppl_increase < 10%",), "swa(window=512, sinks=4)", "kv(8Ki) subject to kl <= 0.095, recall <= 0.1"),
    "a share of all answers": (
        ("needle(1Ki) >= 90%",),
        "swa(window=256, sinks=4)",
        "subject to kl <= 0.095, recall <= 0.1",
    ),
    "own bounds": (
        ("recovery(needle(1Ki)) >= 90%", "recall <= 0.3"),
        "layers 0-29",
        "subject to recall <= 0.3, kl <= 0.095",
    ),
}


@pytest.mark.parametrize(("goals", "among", "bounds"), FINISHED.values(), ids=FINISHED)
def test_the_smallest_cache_that_a_finished_model_allows(goals: tuple[str, ...], among: str, bounds: str) -> None:
    text = recipe_for(replace(_some(), facts=SHAPES["smollm2"]), goals)
    flat = " ".join(text.split())
    assert among in flat
    assert f"{bounds} else keep" in flat
    assert ("sinks=4" in text) is ("lr = 2e-4" in text)
    found = recipe_from_text(text)
    assert found.diagnostics == ()
    # The goals themselves are the gates, once each.
    gates = [gate.text for gate in found.unwrap().asserts]
    assert [gate for goal in goals for gate in goal.split(" and ") if "recovery" in gate] == gates[1:] or goals[0] in gates
    assert len({gate.split()[0] for gate in gates}) == len(gates)
    (choosing,) = (rule.selector for rule in found.unwrap().rules if isinstance(rule.selector, Choosing))
    assert len(choosing.bounds) == 2
    measure = found.unwrap().measure
    assert measure.tries == 24
    assert ('measure { data = "builtin:docs"' in text) is (measure.tokens is not None and measure.tokens > 8192)
    assert choosing.objective.startswith("kv(")


def test_what_may_be_lost_is_a_bound_of_the_smallest_cache() -> None:
    text = recipe_for(replace(_some(), facts=SHAPES["smollm2"]), ("kl <= 0.1 and recall <= 0.2",))
    assert "minimizing kv(8Ki) subject to kl <= 0.1, recall <= 0.2 else keep" in " ".join(text.split())
    assert 'mix("builtin:pydoc", "builtin:recall", weights=[3, 1])' in text
    assert "sinks=4" in text
    assert "a first guess" not in text


@pytest.mark.parametrize("goal", ["recall <= 0.1", "recovery(needle(16Ki)) >= 90%"])
def test_texts_that_are_longer_than_the_positions_are_no_goal(goal: str, tmp_path: Path) -> None:
    save_llama(tmp_path / "model", num_hidden_layers=6)
    with pytest.raises(LbdslError, match="128") as refused:
        starting_recipe(tmp_path / "model", goals=(goal,))
    assert {problem.code for problem in refused.value.diagnostics if problem.is_error} <= {"LB328", "LB336"}


GOALS = {
    "cache": (("kv(64) <= 60%",), "choose for layers", None),
    "bytes": (("kv(64) <= 60%", "weights <= 95%"), "drop(block)", None),
    "speed": (("throughput(32, 16, 2) >= 150%",), "drop(block)", None),
    "loss": (("nll <= 0.05",), "subject to nll <= 0.05\nelse keep", None),
    "cost and loss": (("kv(64) <= 60%", "nll <= 0.1"), "subject to kv(64) <= 60%, nll <= 0.1", None),
    "never": (("kv(64) <= 1%",), "", "LB356"),
    "the other way": (("recovery(needle(1Ki)) <= 90%",), "", "LB123"),
    "one of two": (("ppl_increase < 5% or kv(64) <= 60%",), "", "LB123"),
    "one of two losses": (("kl <= 0.1 or recall <= 0.2",), "", "LB123"),
    "less than": (("kl < 0.05",), "subject to kl <= 0.05", None),
    "with a comma": (("nll <= 0.05, kl <= 0.1",), "subject to nll <= 0.05, kl <= 0.1", None),
    "no condition": (("kv(64)",), "", "LB123"),
    "no syntax": (("kv(64",), "", "LB002"),
    "no words": (("be fast",), "", "LB017"),
    "nothing": (("",), "", "LB008"),
}


@pytest.mark.parametrize(("goals", "holds", "code"), GOALS.values(), ids=GOALS)
def test_a_goal_is_chosen_for(goals: tuple[str, ...], holds: str, code: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_llama(folder, num_hidden_layers=6)
    if code is not None:
        with pytest.raises(LbdslError) as refused:
            starting_recipe(folder, goals=goals)
        assert refused.value.diagnostics[0].code == code
        return
    start = starting_recipe(folder, goals=goals)
    text = start.text
    assert holds in text
    calibrated = [d.help[0] for d in start.diagnostics if d.code == "LB353"]
    assert bool(calibrated) == ("throughput" in text)
    assert all(f"lbdsl calibrate {folder} --engine vllm --lengths 32/16 --concurrency 2" in line for line in calibrated)
    recipe = recipe_from_text(text).unwrap()
    assert (recipe.measure.strategy == "screen") == ("choose for" in text and "kl" in text)
    assert not any(d.is_error for d in static_findings(Case(recipe, inspect_model(folder).facts)))
