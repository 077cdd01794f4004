"""`choose` and `while` on a real, tiny model: measured jointly, cached, interrupted, applied."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from lbdsl.api import planning
from lbdsl.api.planning import plan_recipe
from lbdsl.measure import runs, scores, screen
from lbdsl.measure.runs import Measuring
from lbdsl.plan.file import load_plan
from lbdsl.report.choice import choice_lines
from lbdsl.session import choosing

RECIPE = """lbr 1
measure {{ tokens = 512; seq = 128; tries = {tries} }}
layers 0 keep
choose for layers all among keep, swa(window=32), kv_heads(1) + swa(window=32), drop
  minimizing kl
  subject to kv(8Ki) <= 40%, weights <= 99%, serves("vllm")
heal {{ tokens = 256; seq = 128 }}
"""
LITTLE = "measure { tokens = 256; seq = 64 }\n"
WHILE = "lbr 1\nmeasure { tokens = 256; seq = 64 }\nlowest by kl(drop) while kl <= BOUND drop\nelse keep\n"


def plan_of(lbdsl, text: str, *words: str) -> dict:
    Path("r.lbr").write_text(text)
    done = lbdsl("plan", "r.lbr", "model", "--json", *words)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_best_plan_is_measured_cached_and_applied(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(lbdsl, RECIPE.format(tries=40), "-o", "r.lbplan")
    choice = plan["choice"]
    assert plan["after"]["kv_bytes"]["8192"] <= 0.4 * plan["before"]["kv_bytes"]["8192"]
    assert {budget["text"]: budget["share"] is not None for budget in choice["budgets"]} == {
        "kv(8Ki) <= 40%": True,
        "weights <= 99%": True,
        'serves("vllm")': False,
    }
    joints = [candidate["joint"]["value"] for candidate in choice["candidates"]]
    assert joints[1:] == sorted(joints[1:])
    # Only by other text is another plan than the search's best taken.
    assert joints[0] == min(joints) or (choice["passed_over"] is not None and not choice["searched"])
    assert 8 <= choice["spent"] <= 40
    assert plan["layers"][0]["actions"] == [] or plan["layers"][0]["before"] == plan["layers"][0]["after"]
    # No plan has a smaller sum than the solver's first.
    assert min(candidate["sum"] for candidate in choice["candidates"]) >= choice["least"] - 1e-12
    measured = []
    own = Measuring.means
    none = lambda measuring, *rest: measured.append(1) or own(replace(measuring, model=_none), *rest)  # noqa: E731
    monkeypatch.setattr(Measuring, "means", none)
    assert plan_of(lbdsl, RECIPE.format(tries=40))["digest"] == plan["digest"]
    assert measured
    done = lbdsl("apply", "r.lbplan", "-o", "out", "--yes")
    assert done.code == 0, done.err
    assert "chosen among 4 alternatives for 5 layers, by kl" in lbdsl("show", "r.lbplan").out
    # A value on other text that chance does not explain is said to be one.
    saved = load_plan(Path("r.lbplan")).unwrap()
    here = saved.choice.candidates[0].joint
    for more, misled in ((0.0, False), (0.09, False), (0.3, True)):
        there = here.model_copy(update={"value": here.value + more, "stderr": 0.1})
        loss = saved.loss.model_copy(update={"scores": {"kl": there}})
        lines = choice_lines(saved.model_copy(update={"loss": loss}), 80, False)
        assert any("more than chance explains" in line.plain for line in lines) == misled


def _none():
    raise AssertionError("everything is measured already")


def test_without_tries_scores_alone_choose(workplace: Path, lbdsl) -> None:
    choice = plan_of(lbdsl, RECIPE.format(tries=0))["choice"]
    assert (choice["spent"], choice["candidates"]) == (0, [])


def test_an_interrupted_search_gives_the_best_so_far(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = scores.measure_plans, []

    def interrupted(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*args, **more)

    Path("r.lbr").write_text(RECIPE.format(tries=40))
    with monkeypatch.context() as patch:
        patch.setattr(scores, "measure_plans", interrupted)
        done = lbdsl("plan", "r.lbr", "model", "-o", "r.lbplan")
    assert done.code == 0, done.err
    assert "LB357" in done.out
    assert "not the search's result" in done.out
    assert "Apply exactly this" not in done.err
    stopped = load_plan(Path("r.lbplan")).unwrap()
    assert stopped.choice is not None
    assert stopped.choice.stopped
    assert stopped.choice.spent == 8
    whole = plan_of(lbdsl, RECIPE.format(tries=40))["choice"]
    assert whole["spent"] > 8
    assert whole["candidates"][0]["joint"]["value"] <= stopped.choice.candidates[0].joint.value


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (scores, "measure_plans", ("-o", "r.lbplan")),
        (planning, "planned_on", ("--sweep", "budget=40%,60%", "-o", "r.png")),
    ],
    ids=["the search", "a sweep"],
)
def test_a_kill_gives_nothing_so_far(
    owner: ModuleType, name: str, words: tuple[str, ...], workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who kills it does not wait for a plan."""
    own, calls = getattr(owner, name), []

    def killed(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return own(*args, **more)

    text = RECIPE.format(tries=40).replace("40%", "$budget")
    Path("r.lbr").write_text(text.replace("measure", "param $budget: ratio = 40%\nmeasure", 1))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        done = lbdsl("plan", "r.lbr", "model", *words)
    assert (done.code, len(calls)) == (143, 2), done.err
    assert "terminated; what was measured is kept" in done.err
    assert not Path(words[-1]).exists()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["independent", "screen"])
def test_the_same_command_measures_no_sequence_twice_after_an_interrupt(
    strategy: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, new_cache
) -> None:
    text = RECIPE.format(tries=30).replace("tries", f"strategy = {strategy}; tries", 1)
    # New weights are made once for all sequences, which then go through the model together.
    Path("r.lbr").write_text(text.replace("kv_heads(1) + swa(window=32)", "swa(window=48)"))
    calls, every = [], 0
    for module, name in ((runs, "push"), (screen, "_effects")):
        own = getattr(module, name)

        def counted(*args, own=own, **more):
            calls.append(own)
            if every and len(calls) % every == 0:
                raise KeyboardInterrupt
            return own(*args, **more)

        monkeypatch.setattr(module, name, counted)
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(new_cache(workplace / "whole")))
    whole, needed = plan_recipe("r.lbr", "model").plan, len(calls)
    assert needed > 9, "statistics, the scores or the screen, and rounds of the search"
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(new_cache(workplace / "stopped")))
    calls.clear()
    every, stops, found = 5, 0, None
    while found is None and stops < needed:
        try:
            found = plan_recipe("r.lbr", "model").plan
        except KeyboardInterrupt:
            stops += 1
    assert found is not None
    assert found.digest == whole.digest
    assert len(calls) == needed + stops


@pytest.mark.parametrize(
    ("settings", "budget", "searched"),
    [
        pytest.param("seed = 1", "50%", True, marks=pytest.mark.slow),
        pytest.param("strategy = screen; seed = 1", "50%", True, marks=pytest.mark.slow),
        ("strategy = screen; seed = 1", "30%", True),
        ("strategy = screen; seed = 1", "50%", False),
    ],
)
def test_a_search_gives_no_worse_plan_than_scores_alone_on_other_text(
    settings: str, budget: str, searched: bool, workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best eight of the search and that with the least sum are measured there, and the least is taken."""
    text = (
        f"measure {{ tokens = 512; seq = 128; {settings}; tries = TRIES }}\n"
        "choose for layers all among keep, swa(window=32), kv_heads(1), drop minimizing kl\n"
        f"  subject to kv(8Ki) <= {budget}\nheal {{ tokens = 256; seq = 128 }}\n"
    )
    alone = plan_of(lbdsl, text.replace("TRIES", "0"))
    strip = [layer["after"] for layer in alone["layers"]]
    own, there = choosing.elsewhere, []

    def elsewhere(session, plans, *rest):
        there.clear()
        for plan, one in zip(plans, own(session, plans, *rest), strict=True):
            first = [spec.to_json() for spec in plan.specs] == strip
            # As if the search had seen what holds on its text alone.
            there.append(replace(one["kl"], value=one["kl"].value + (0.0 if searched or first else 9.0)))
        return [{"kl": one} for one in there]

    monkeypatch.setattr(choosing, "elsewhere", elsewhere)
    found = plan_of(lbdsl, text.replace("TRIES", "60"), "-o", "r.lbplan")
    choice, here = found["choice"], found["loss"]["scores"]["kl"]
    assert 8 <= len(there) <= 9
    assert here["value"] == min(one.value for one in there)
    assert choice["searched"] is searched
    assert ([layer["after"] for layer in found["layers"]] != strip) is searched
    if searched:
        assert choice["passed_over"] == alone["loss"]["scores"]["kl"]
    else:
        # The plan that is taken is the first of the strips, though others are better on the text that chose.
        assert choice["passed_over"]["value"] > 9
        joints = [candidate["joint"]["value"] for candidate in choice["candidates"]]
        assert joints[0] > joints[1]
    shown = lbdsl("show", "r.lbplan").out
    said = "alone has" if searched else "alone, for the best of the search has"
    assert f"{said} {choice['passed_over']['value']:+.3g}" in shown


def test_budgets_that_nothing_meets_are_an_error(workplace: Path, lbdsl) -> None:
    Path("r.lbr").write_text(RECIPE.format(tries=0).replace("40%", "1%"))
    done = lbdsl("plan", "r.lbr", "model")
    assert done.code == 5
    assert "LB356" in done.err
    assert "kv(8Ki)" in done.err
    # What vLLM cannot serve is in the way.
    Path("r.lbr").write_text(
        RECIPE.format(tries=0).replace("swa(window=32)", "swa(window=32, sinks=4)").replace(", drop", "")
    )
    done = lbdsl("plan", "r.lbr", "model")
    assert (done.code, 'without `serves("vllm")`' in done.err) == (5, True), done.err
    # What it cannot serve is named where it is not in the way, too.
    Path("r.lbr").write_text(
        RECIPE.format(tries=8).replace("swa(window=32), kv", "swa(window=32, sinks=4), swa(window=32), kv")
    )
    done = lbdsl("plan", "r.lbr", "model")
    assert done.code == 0, done.err
    assert 'left out: no format of serves("vllm") has swa(window=32, sinks=4)\n' in done.out
    Path("r.lbr").write_text(RECIPE.format(tries=0).replace("drop", "kv_heads(7)"))
    done = lbdsl("plan", "r.lbr", "model")
    marked = next(line for line in done.err.partition("LB339")[2].splitlines() if "^" in line)
    assert marked.count("^") == len("kv_heads(7)")


def test_while_takes_as_many_layers_as_keep_its_condition(workplace: Path, lbdsl) -> None:
    sizes = {}
    for bound in ("0.001", "0.2", "100"):
        plan = plan_of(lbdsl, WHILE.replace("BOUND", bound))
        sizes[bound] = sum(layer["after"]["mixer"] is None for layer in plan["layers"])
        (said,) = [finding["message"] for finding in plan["findings"] if finding["code"] == "LB358"]
        assert said.startswith(f"rule 1 takes {sizes[bound]} layer")
    assert sizes["0.001"] == 0 < sizes["0.2"] < sizes["100"] == 6
    Path("r.lbr").write_text(WHILE.replace("kl <= BOUND", "kl < 0"))
    done = lbdsl("plan", "r.lbr", "model")
    assert (done.code, "LB312" in done.err) == (5, True)
    # What is wrong beside it is said as that.
    Path("r.lbr").write_text(WHILE.replace("BOUND", "100").replace("else", "layers all quantize(bits=4, group=128)\nelse"))
    done = lbdsl("plan", "r.lbr", "model")
    assert (done.code, "LB217" in done.err, "LB312" in done.err) == (1, True, False)


def test_a_bound_that_no_scores_can_meet_is_refused_before_measuring(
    workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("measured")

    text = LITTLE + "lowest 2 by kl(swa(window=8)) swa(window=8)\nelse keep\nassert weights <= "
    Path("r.lbr").write_text(text + "10%\n")
    with monkeypatch.context() as patch:
        patch.setattr("lbdsl.session.planning.measure", measured)
        for command in ("plan", "apply"):
            done = lbdsl(command, "r.lbr", "model", *(["--yes"] if command == "apply" else []))
            assert (done.code, "LB321" in done.err) == (5, True), done.err
            assert "of the base model's at best" in " ".join(done.err.split())
        Path("r.lbr").write_text(text + "100%\n")
        with pytest.raises(AssertionError, match="measured"):
            lbdsl("plan", "r.lbr", "model")
    assert lbdsl("plan", "r.lbr", "model").code == 0


def test_a_sweep_plans_for_each_value_and_draws_them(workplace: Path, lbdsl) -> None:
    text = RECIPE.format(tries=0).replace("measure", "param $budget: ratio = 50%\nmeasure", 1).replace("40%", "$budget")
    Path("r.lbr").write_text(text)
    done = lbdsl("plan", "r.lbr", "model", "--sweep", "$budget=30%,60%,1%", "-o", "front.png")
    assert done.code == 5, done.err
    assert "KV@8Ki" in done.out
    lines = [line.split() for line in done.out.splitlines() if line.lstrip().startswith("budget=")]
    assert [line[0] for line in lines] == ["budget=30%", "budget=60%"] * (len(lines) // 2)
    assert "LB356" in done.err
    assert Path("front.png").stat().st_size > 1000
    found = json.loads(lbdsl("plan", "r.lbr", "model", "--sweep", "budget=30%,1%", "--json").out)
    assert [row["plan"] is not None for row in found["plans"]] == [True, False]
    assert found["plans"][0]["plan"]["choice"]["budgets"][0]["text"].endswith("<= 30%")
    assert [problem["code"] for problem in found["plans"][1]["errors"]] == ["LB356"]
    assert lbdsl("plan", "r.lbr", "model", "--sweep", "budget=1%,2%").code == 5
    assert lbdsl("plan", "r.lbr", "model", "--sweep", "budget=30%", "-o", "x.lbplan").code == 2
    Path("notes.svg").write_text("mine")
    for words, said in (
        (("--sweep", "budget=30%", "-o", "notes.svg"), "it is not a picture"),
        (("--sweep", "budget=30%", "--sweep", "budget=40%"), "--sweep takes one parameter"),
        (("-o", "front.png"), "with --sweep"),
    ):
        refused = lbdsl("plan", "r.lbr", "model", *words)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    assert Path("notes.svg").read_text() == "mine"
    assert lbdsl("plan", "r.lbr", "model", "--sweep", "budget=30%", "-o", "front.png").code == 0
    # Before the first value is planned.
    typo = lbdsl("plan", "r.lbr", "model", "--sweep", "budget=30%,abc")
    assert (typo.code, "LB118" in typo.err, "$budget = 30%" in typo.err) == (1, True, False), typo.err
    assert "▶ the value given for $budget\n" in typo.err
    assert "--set" not in typo.err
    both = lbdsl("plan", "r.lbr", "model", "--sweep", "budget=30%", "--set", "budget=40%")
    assert (both.code, "both give $budget a value" in both.err) == (2, True)
    # A context that only some of the plans have is not compared.
    Path("ctx.lbr").write_text(f"{LITTLE}param $ctx: tokens = 4Ki\nlayers 1 drop\nelse keep\nassert kv($ctx) <= 100%\n")
    contexts = lbdsl("plan", "ctx.lbr", "model", "--sweep", "ctx=4Ki,16Ki")
    assert contexts.code == 0, contexts.err
    assert "KV@512" in contexts.out
    Path("gated.lbr").write_text(f"{LITTLE}param $share: ratio = 50%\nlayers 1 drop\nelse keep\nassert kv(4Ki) <= $share\n")
    gated = lbdsl("plan", "gated.lbr", "model", "--sweep", "share=50%,60%,100%")
    assert (gated.code, "kv(4Ki) <= 50%" in gated.err) == (5, True), gated.err
    assert (gated.err.count("LB207"), "share = 50%, 60%, 100%:" in gated.err) == (1, True), gated.err
    Path("lbdsl.toml").write_text("[plan]\nall = true\n")
    assert lbdsl("plan", "ctx.lbr", "model", "--sweep", "ctx=4Ki,5Ki").code == 0
    assert lbdsl("plan", "ctx.lbr", "model", "--sweep", "ctx=4Ki,5Ki", "--all").code == 2
    assert lbdsl("plan", "ctx.lbr", "model", "--estimate", "1x24GB", "--ctx", "4Ki").code == 2
    recipe = lbdsl("diff", "r.lbr", "r.lbr")
    assert ("LB331" in recipe.err, "`lbdsl plan r.lbr MODEL -o" in recipe.err) == (True, True), recipe.err


def test_two_plans_side_by_side(workplace: Path, lbdsl) -> None:
    for name, rule, heal in (("a", "layers 1 drop", ""), ("b", "layers 1 swa(window=32)", "heal { tokens = 1Ki }")):
        Path(f"{name}.lbr").write_text(f"lbr 1\n{LITTLE}{rule}\nelse keep\n{heal}\n")
        assert lbdsl("plan", f"{name}.lbr", "model", "-o", f"{name}.lbplan").code == 0
    done = lbdsl("diff", "a.lbplan", "b.lbplan", "--detailed-exitcode")
    assert done.code == 10
    assert "layer 1:" in done.out
    assert "heal: only in the second" in done.out
    found = json.loads(lbdsl("diff", "a.lbplan", "b.lbplan", "--json").out)
    assert len(found["differences"]) == 2
    assert [loss["scores"]["kl"]["value"] > 0 for loss in found["loss"]] == [True, True]
    assert found["evaluation"] == [None, None]
    Path("a.lbr").write_text(f"lbr 1\n{LITTLE}layers 1 drop\nelse keep\nassert ppl_increase < 1000%\n")
    judging = lbdsl("apply", "a.lbr", "model", "-o", "out", "--yes")
    assert judging.code == 0, judging.err
    judged = lbdsl("diff", "out", "b.lbplan").out
    assert " out, judged on builtin:wikitext: " in judged
    assert "assert ppl_increase < 1000%: only in the first" in judged
    same = lbdsl("diff", "a.lbplan", "a.lbplan", "--detailed-exitcode")
    assert (same.code, "the plans are the same" in same.out) == (0, True)
    assert lbdsl("diff", "a.lbplan", "c.lbplan").code == 1


def test_a_screen_estimates_what_it_does_not_measure(workplace: Path, lbdsl) -> None:
    exact, screened = (
        plan_of(lbdsl, RECIPE.format(tries=8).replace("tries", f"{strategy}tries", 1))
        for strategy in ("", "strategy = screen; ")
    )
    for plan in (exact, screened):
        assert plan["choice"]["spent"] == 8
    scores = [[layer["scores"] for layer in plan["layers"]] for plan in (exact, screened)]
    for one, other in zip(scores[0][1:], scores[1][1:], strict=True):
        assert one.keys() == other.keys()
        assert one != other
    again = plan_of(lbdsl, RECIPE.format(tries=8).replace("tries", "strategy = screen; tries", 1))
    assert again["digest"] == screened["digest"]


def test_while_beside_an_until_that_too_many_layers_would_make_impossible(workplace: Path, lbdsl) -> None:
    rules = "lowest by kl(swa(window=32)) while kl <= 0.5 swa(window=32)\nlowest by kl(drop) until params <= 96% drop"
    plan = plan_of(lbdsl, f"lbr 1\nmeasure {{ tokens = 256; seq = 64 }}\n{rules}\nelse keep\n")
    mixers = [layer["after"]["mixer"] for layer in plan["layers"]]
    assert None in mixers
    assert any(mixer is not None and mixer["window"] for mixer in mixers)


def test_an_interrupted_sweep_shows_the_plans_that_it_has(workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    real, values = planning.planned_on, []

    def interrupted(*args, **kwargs):
        values.append(args)
        if len(values) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(planning, "planned_on", interrupted)
    Path("r.lbr").write_text(f"{LITTLE}param $share: ratio = 50%\nlowest $share by sensitivity drop\nelse keep\n")
    done = lbdsl("plan", "r.lbr", "model", "--sweep", "share=30%,40%,50%", "--json")
    rows = json.loads(done.out)["plans"]
    assert [(row["value"], row["plan"] is not None) for row in rows] == [("30%", True), ("40%", False)]
    assert "stopped before" in done.err
    assert done.code == 130
