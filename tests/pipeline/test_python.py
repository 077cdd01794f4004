"""The functions that a program calls: paths and numbers as arguments, results that show themselves, one layer by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import lbdsl
import lbdsl as lbdsl_api
from lbdsl.api.planning import plan_text
from lbdsl.layer.difference import window_size
from lbdsl.parts.attention import Window
from tests.clean_process import CleanProcess


@pytest.fixture
def planned(workplace: Path):
    return lbdsl.plan_recipe(Path("tiny.lbr"), Path("model"), set_params={"window": 8})


def test_paths_and_numbers_are_taken(planned) -> None:
    assert planned.recipe.params == {"window": 8}
    assert {window_size(spec) for spec in planned.plan.specs} == {None, 8}


def test_results_have_a_short_repr_and_draw_themselves(planned) -> None:
    assert repr(planned) == "<Planned: tiny of model: 2 of 6 layers unchanged; 2 without attention, 2 windowed>"
    assert repr(planned.plan).startswith("<Plan: tiny of model: ")
    html = planned._repr_html_()
    assert html.startswith("<pre")
    assert "swa(window=8, sinks=2)" in html


def test_a_plan_answers_by_guessable_names(planned, workplace: Path, lbdsl) -> None:
    plan = planned.plan
    assert planned.layers == plan.layers
    assert [item.text for item in planned.asserts] == ["kv(1Ki) <= 80%", "ppl_increase < 300%"]
    costs = planned.costs
    assert costs == plan.costs
    assert (costs.params.before, costs.params.after) == (plan.before.params, plan.after.params)
    assert costs.params.share == plan.after.params / plan.before.params
    assert list(costs.kv_bytes) == list(plan.contexts)
    # The context of its assert.
    cache = costs.kv_bytes[1024]
    assert (cache.before, cache.after) == (plan.before.kv_bytes["1024"], plan.after.kv_bytes["1024"])
    assert costs.flops_per_token[1024].after == plan.after.flops_per_token["1024"]
    assert costs.weights.before == plan.before.weights
    assert planned.loss["kl"] == plan.loss.scores["kl"].value > 0
    with pytest.raises(KeyError):
        planned.loss["recall"]


def test_a_plan_prints_as_the_terminal_shows_it(
    planned, workplace: Path, lbdsl, capsys, clean_process: CleanProcess
) -> None:
    shown = lbdsl("plan", "tiny.lbr", "model", "--set", "window=8").out
    print(planned)
    assert capsys.readouterr().out.strip("\n") == shown.strip("\n")
    assert "\x1b" not in shown
    script = "import sys; sys.stdout.reconfigure(encoding='ascii'); import lbdsl; print(lbdsl.plan_recipe(*sys.argv[1:]))"
    done = clean_process.run(script, "tiny.lbr", "model", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "Plan: 2 of 6 layers unchanged" in done.stdout


def test_contexts_are_named_and_written_as_in_the_shell(workplace: Path, lbdsl) -> None:
    planned = lbdsl_api.plan_recipe("tiny.lbr", "model", ctx=("2Ki", 300))
    assert {300, 2048} <= set(planned.plan.contexts)
    shown = json.loads(lbdsl("plan", "tiny.lbr", "model", "--ctx", "2Ki", "--ctx", "300", "--json").out)
    assert shown["before"]["kv_bytes"] == planned.plan.before.kv_bytes
    assert 2048 in lbdsl_api.plan_recipe("tiny.lbr", "model", ctx="2Ki").plan.contexts
    for wrong in ("2Kib", "-1", 0, "", True):
        with pytest.raises(ValueError, match="is not a number of tokens"):
            lbdsl_api.plan_recipe("tiny.lbr", "model", ctx=wrong)


HAND = """lbr 1
measure { tokens = 256; seq = 64 }
param $width: ratio = 50%
let $narrow = 8; let $near = $narrow
# the first
layers 0 keep
# then windows
layers 1-2 swa(window=$near)  # of the near tokens
else width($width)
eval { tokens = 256; seq = 64 }
assert ppl_increase < 300%
"""


@pytest.mark.parametrize(("layer", "action"), [(4, "drop"), (1, "keep"), (5, "swa(window=16) + width(50%)")])
@pytest.mark.parametrize("else_", ["else width($width)", "else keep", "else swa(window=12)", ""])
def test_what_is_changed_by_hand_has_no_findings_of_its_own(workplace: Path, layer: int, action: str, else_: str) -> None:
    text = HAND.replace("else width($width)", else_)
    if "$width" not in text.replace("param $width", ""):
        text = text.replace("param $width: ratio = 50%\n", "")
    Path("hand.lbr").write_text(text)
    planned = lbdsl_api.plan_recipe("hand.lbr", "model", set_params={"width": "75%"} if "$width" in text else {})
    changed = lbdsl_api.change_layer(planned, layer, action)
    before, after = planned.plan.specs, changed.plan.specs
    assert {i for i in range(6) if before[i] != after[i]} <= {layer}
    said = [(d.code, d.message) for d in planned.diagnostics]
    of_tool = [d for d in changed.diagnostics if (d.code, d.message) not in said and d.code not in ("LB207", "LB325")]
    assert not of_tool
    # The text is checked as any other, and begins as the old one.
    assert not [d for d in lbdsl_api.check_recipe(changed.recipe.text).diagnostics if d.code not in ("LB207", "LB325")]
    rules = [line for line in changed.recipe.text.splitlines() if line.startswith(("layers", "else"))]
    assert rules[-1].partition("  #")[0] == "else keep"
    assert "# the first\nlayers 0 keep\n" in changed.recipe.text
    assert "# then windows\nlayers" in changed.recipe.text
    again = lbdsl_api.change_layer(changed, layer, "keep")
    assert again.plan.specs[layer] == planned.bench.facts.layer_specs[layer]


def test_a_plan_is_saved_and_loaded(planned, workplace: Path) -> None:
    path = planned.save("x.lbplan")
    assert lbdsl.load_plan(path).model_dump(mode="json") == planned.plan.model_dump(mode="json")
    assert lbdsl.load_plan(path).serving == planned.plan.serving != ()


def test_one_layer_is_changed_by_hand(planned, workplace: Path) -> None:
    layer = next(item.index for item in planned.plan.layers if item.after.mixer is None)
    changed = lbdsl.change_layer(planned, layer, "swa(window=32)")
    before, after = planned.plan.specs, changed.plan.specs
    assert [i for i in range(len(before)) if before[i] != after[i]] == [layer]
    assert after[layer].mixer == before[layer - 1].mixer.replace(window=Window(size=32))
    assert changed.plan.heal.model_dump() == planned.plan.heal.model_dump()
    assert changed.plan.loss.scores.keys() == planned.plan.loss.scores.keys() == {"nll", "kl"}
    assert changed.plan.loss.rise != planned.plan.loss.rise
    back = lbdsl.change_layer(changed, layer, "drop")
    assert back.plan.specs == before
    done = lbdsl.apply_saved_plan(changed.save("hand.lbplan"), chosen=lbdsl.ApplyOptions(output=Path("out"), no_heal=True))
    assert done.record.plan.specs == after
    greedy = planned.recipe.text.replace("measure {", "measure { strategy = greedy; tries = 8;")
    assert greedy != planned.recipe.text
    chosen = "choose for layers all among keep, swa(window=8) minimizing kl subject to kv(8Ki) <= 60%\n"
    rules = "".join(line for line in greedy.splitlines(True) if not line.startswith(("lowest", "else", "layers")))
    Path("chosen.lbr").write_text(rules + chosen)
    by_choice = lbdsl.plan_recipe("chosen.lbr", "model")
    assert by_choice.plan.choice is not None
    assert lbdsl.change_layer(by_choice, layer, "drop").plan.specs[layer].mixer is None
    for wrong, code in (((99, "keep"), "LB300"), ((layer, "keeep"), "LB101"), ((layer, "swa"), "LB104")):
        with pytest.raises(lbdsl.LbdslError) as raised:
            lbdsl.change_layer(planned, *wrong)
        assert raised.value.diagnostics[0].code == code
    assert re.fullmatch(r"LB104: .* \(.*\.lbr, changed by hand:\d+:\d+; .*\)", str(raised.value))
    # The rest keeps layer 1 only after the drop, whose patch it may take.
    short = "measure { tokens = 256; seq = 64 }\n"
    patched = plan_text(f"{short}layers 2 drop(patch=linear)\nelse keep\n", "patched.lbr", planned.bench)
    by_hand = lbdsl.change_layer(patched, 4, "swa(window=32)")
    assert not [d for d in by_hand.diagnostics if "an earlier rule keeps" in d.message]
    Path("part.lbr").write_text("layers 1 drop\n")
    Path("greedy.lbr").write_text("measure { strategy = greedy }\n")
    for text in (
        f'{short}modules "*.k_proj" quantize(bits=8)',
        f'{short}include "part.lbr"',
        f'include "greedy.lbr"\n{chosen}',
    ):
        Path("whole.lbr").write_text(text + "\nelse keep\n")
        with pytest.raises(lbdsl.LbdslError) as raised:
            lbdsl.change_layer(lbdsl.plan_recipe("whole.lbr", "model"), layer, "drop")
        assert raised.value.diagnostics[0].code == "LB345"


def test_an_artifact_is_loaded_and_progress_calls_a_function(planned, workplace: Path) -> None:
    told: list[tuple[str, float, float, str]] = []
    done = lbdsl.apply_plan(
        planned, chosen=lbdsl.ApplyOptions(output=Path("out"), no_heal=True), progress=lambda *step: told.append(step)
    )
    assert repr(done).startswith("<Applied: accepted, in ")
    assert "perplexity" in done._repr_html_()
    assert {stage for stage, *_ in told} >= {"judging the saved model"}
    model, tokenizer = lbdsl.load("out")
    ids = tokenizer("hello", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape[:2] == ids.shape
    judged = lbdsl.evaluate_artifact("out", tokens=256, seq=64)
    assert repr(judged) == "<Judged: model on builtin:pydoc>"
    with pytest.raises(lbdsl.LbdslError, match="LB466"):
        lbdsl.load("model")


def test_arguments_of_another_type_say_what_is_taken(planned, workplace: Path) -> None:
    for call, said in (
        (lambda: lbdsl.plan_recipe("tiny.lbr", "model", options={"device": "cpu"}), "lbdsl.RunOptions"),
        (lambda: lbdsl.plan_recipe("tiny.lbr", "model", set_params=["window=8"]), "a dict of names and values"),
        (lambda: lbdsl.apply_plan("x.lbplan"), "apply_saved_plan takes a file"),
        (lambda: lbdsl.apply_plan(planned, chosen="out"), "lbdsl.ApplyOptions"),
    ):
        with pytest.raises(TypeError, match=said):
            call()
    with pytest.raises(lbdsl.LbdslError) as caught:
        lbdsl.plan_recipe("model", "tiny.lbr")
    assert "the recipe comes first" in caught.value.diagnostics[0].help[0]
