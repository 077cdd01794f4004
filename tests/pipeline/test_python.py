"""The functions that a program calls: paths and numbers as arguments, results that show themselves, one layer by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

import lbdsl
from lbdsl.layer.difference import window_size
from lbdsl.parts.attention import Window
from lbdsl.verbs.planning import plan_text


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
    greedy = planned.recipe.text.replace("measure {", "measure { strategy = greedy;")
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
        (lambda: lbdsl.plan_recipe("tiny.lbr", "model", options={"device": "cpu"}), "lbdsl.RunOptions"),  # type: ignore[arg-type]
        (lambda: lbdsl.plan_recipe("tiny.lbr", "model", set_params=["window=8"]), "a dict of names and values"),  # type: ignore[arg-type]
        (lambda: lbdsl.apply_plan("x.lbplan"), "apply_saved_plan takes a file"),  # type: ignore[arg-type]
        (lambda: lbdsl.apply_plan(planned, chosen="out"), "lbdsl.ApplyOptions"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=said):
            call()
    with pytest.raises(lbdsl.LbdslError) as caught:
        lbdsl.plan_recipe("model", "tiny.lbr")
    assert "the recipe comes first" in caught.value.diagnostics[0].help[0]
