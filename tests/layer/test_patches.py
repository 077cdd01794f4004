"""Which sub-block makes up for which dropped ones, and when none can."""

from __future__ import annotations

import pytest

from lbdsl.actions.patches import FULL, patch_texts, patches_of, with_factor, without_patches
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.weights import MatMul, Ref
from lbdsl.recipe.load import recipe_from_text
from lbdsl.solve.case import Case
from lbdsl.solve.select import Selection, select
from tests.export_cases import base_facts
from tests.plan_cases import llama_facts

DOWN, OUT = "mlp.down_proj.weight", "self_attn.o_proj.weight"


def selected(rules: str, facts: ModelFacts | None = None) -> tuple[Selection, list[Diagnostic]]:
    found = select(Case(recipe_from_text(rules + "\n").unwrap(), facts or llama_facts()), {})
    return found.unwrap(), [d for d in found.diagnostics if d.code == "LB351"]


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ("layers 2 drop(patch=linear)", {"1.ffn": "2.mixer"}),
        ("layers 2 drop(mlp, patch=linear)", {"2.mixer": "2.ffn"}),
        ("layers 2 drop(block, patch=linear)", {"1.ffn": "2.mixer 2.ffn"}),
        ("layers 1, 2 drop(patch=linear)", {"0.ffn": "1.mixer", "1.ffn": "2.mixer"}),
        ("layers 1-2 drop(block, patch=linear)", {"0.ffn": "1.mixer 1.ffn 2.mixer 2.ffn"}),
        # One after the other get one map, whatever the rule; what is dropped after the last of them has none.
        ("layers 1 drop(block)\nlayers 2 drop(patch=linear)", {"0.ffn": "1.mixer 1.ffn 2.mixer"}),
        ("layers 1 drop(block, patch=linear)\nlayers 2 drop", {"0.ffn": "1.mixer 1.ffn"}),
        ("layers 1 drop(mlp)\nlayers 2 drop(patch=linear)", {"1.mixer": "1.ffn 2.mixer"}),
        ("layers 1 drop + drop(mlp, patch=linear)", {"0.ffn": "1.mixer 1.ffn"}),
        # A later rule cannot take back what the drop has claimed.
        ("layers 2 drop(patch=linear)\nelse keep", {"1.ffn": "2.mixer"}),
        ("layers 1 keep(attention)\nlayers 2 drop(patch=linear)", {"1.ffn": "2.mixer"}),
        ("layers 2 drop", {}),
    ],
)
def test_the_sub_block_before_makes_up_for_a_run_of_dropped_ones(rules: str, wanted: dict[str, str]) -> None:
    facts = llama_facts()
    chosen, notes = selected(rules)
    patches = patches_of(facts, chosen.changes)
    assert {str(patch.at): " ".join(map(str, patch.dropped)) for patch in patches} == wanted
    assert all(patch.stat.dims == (facts.hidden, facts.hidden) for patch in patches)
    assert not notes
    for patch in patches:
        name = {"ffn": DOWN, "mixer": OUT}[patch.at.slot]
        choice = chosen.layers[patch.at.layer]
        assert choice.weights == {name: MatMul(a=patch.stat, b=Ref(name=name))}
        assert choice.changed
        assert patch_texts(choice.weights)[0] in choice.reason


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("layers 0 drop(patch=linear)", "layer 0 is dropped without a patch: nothing is kept before it"),
        (
            "layers 0-1 drop(block, patch=linear)",
            "layers 0-1 are dropped without a patch: nothing is kept before it",
        ),
        (
            "layers 1 keep\nlayers 2 drop(patch=linear)",
            "layer 2 is dropped without a patch: an earlier rule keeps the MLP of layer 1 as it is",
        ),
        (
            "layers 1 keep(mlp)\nlayers 2 drop(block, patch=linear)",
            "layer 2 is dropped without a patch: an earlier rule keeps the MLP of layer 1 as it is",
        ),
        (
            "layers 1 keep(mlp)\nlayers 2 drop(patch=linear)\nelse keep",
            "layer 2 is dropped without a patch: an earlier rule keeps the MLP of layer 1 as it is",
        ),
        (
            'modules "*.1.mlp.down_proj" keep\nlayers 2 drop(patch=linear)',
            "layer 2 is dropped without a patch: an earlier rule keeps the MLP of layer 1 as it is",
        ),
        (
            "layers 2 keep(attention)\nlayers 2 drop(mlp, patch=linear)",
            "layer 2 is dropped without a patch: an earlier rule keeps the attention of layer 2 as it is",
        ),
    ],
)
def test_a_drop_that_nothing_can_make_up_for_is_not_patched_and_says_why(rules: str, message: str) -> None:
    chosen, notes = selected(rules)
    assert not patches_of(llama_facts(), chosen.changes)
    assert [note.message for note in notes] == [message]
    assert notes[0].span is not None


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "olmo3"])
def test_a_norm_behind_the_sub_block_is_in_the_way(family: str) -> None:
    _, facts = base_facts(family)
    chosen, notes = selected("layers 2 drop(patch=linear)", facts)
    assert not patches_of(facts, chosen.changes)
    assert [note.message for note in notes] == [
        f"layer 2 is dropped without a patch: a norm follows the MLP in {family} models"
    ]


def test_a_patch_is_named_after_all_changes_that_it_is_fitted_behind() -> None:
    names = set()
    for rules in (
        "layers 2 drop(patch=linear)",
        "layers 2 drop(patch=linear)\nlayers 0 swa(window=5)",
        "layers 2 drop(patch=linear)\nlayers 1 width(64, refit=false)",
        "layers 1-2 drop(patch=linear)",
    ):
        chosen, _ = selected(rules)
        names.add(patches_of(llama_facts(), chosen.changes)[-1].stat.text)
    assert len(names) == 4
    # A change behind it is none of its business.
    for rules in ("layers 2 drop(patch=linear)\nlayers 3 drop", "layers 2-3 drop(patch=linear)"):
        chosen, _ = selected(rules)
        assert patches_of(llama_facts(), chosen.changes)[0].stat.text in names


def test_a_patch_is_multiplied_to_the_weights_that_other_actions_make() -> None:
    facts = llama_facts()
    chosen, _ = selected("layers 2 drop(patch=linear)\nlayers 1 width(64, refit=false)")
    narrow, _ = selected("layers 1 width(64, refit=false)")
    made = chosen.layers[1].weights[DOWN]
    assert isinstance(made, MatMul)
    assert made.b == narrow.layers[1].weights[DOWN]
    assert made.shape({tensor.name: tensor.shape for tensor in facts.layer_specs[1].tensors(facts)}) == (64, 64)
    assert without_patches(chosen.layers[1].change) == narrow.layers[1].change
    full = with_factor(chosen.changes, FULL)
    (patch,) = patches_of(facts, full)
    assert "factor=1," in patch.stat.text
    assert with_factor(full, "joint") == dict(chosen.changes)


def test_a_score_of_a_patched_drop_is_of_two_layers() -> None:
    facts = llama_facts()
    action = recipe_from_text("layers 2 drop(patch=linear)\n").unwrap().rules[0].actions[0]
    changes = action.alone(facts, 2)
    assert changes is not None
    assert sorted(changes) == [1, 2]
    assert changes[1].spec == facts.layer_specs[1]
    (patch,) = patches_of(facts, changes)
    assert "factor=1," in patch.stat.text
    # Where there is none, the drop is scored as it would be carried out.
    assert sorted(action.alone(facts, 0) or {}) == [0]


def test_plans_without_patches_are_the_same_as_before_there_were_any() -> None:
    plain, patched = (
        recipe_from_text(f"layers 2 {call}\n").unwrap().rules[0].actions[0] for call in ("drop", "drop(patch=linear)")
    )
    assert plain.model_dump(mode="json") == {"kind": "drop", "target": "attention"}
    assert patched.model_dump(mode="json") == {"kind": "drop", "target": "attention", "patch": "linear"}
    assert type(patched).model_validate(patched.model_dump(mode="json")) == patched
