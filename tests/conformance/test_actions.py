"""What every action promises, of whatever kind: found through the registry, so a new one is tested by being there.

What is carried out is carried out for every family, saved, loaded and exported: tests/pipeline/test_family_pipeline.py.
"""

from __future__ import annotations

import pytest

from lbdsl import check_recipe
from lbdsl.actions import actions
from lbdsl.layer.paths import has_path
from lbdsl.plan.build import build
from lbdsl.plan.made_from import ModelRef
from lbdsl.recipe.load import recipe_from_text
from lbdsl.session.model import OpenModel
from lbdsl.session.options import RunOptions
from lbdsl.solve.case import Case
from lbdsl.solve.select import select
from tests.family_cases import family_base
from tests.plan_cases import joint_loss
from tests.tiny_model import byte_tokenizer, save_tiny_model

EXAMPLES = [(kind, example) for kind, cls in actions().items() for example in (cls.example, *cls.examples)]


def planned(example: str, bench: OpenModel):
    # With a window small enough that it matters on a short text.
    text = f"layers 1, 3 {example.replace('window=512', 'window=16')}\nelse keep\n"
    recipe = recipe_from_text(text).unwrap()
    selection = select(Case(recipe, bench.facts), {}).unwrap()
    ref = ModelRef(
        source="tiny",
        digest="0" * 64,
        family=bench.facts.family,
        layers=bench.facts.layers,
        dtype=bench.facts.dtype,
        facts=bench.facts,
    )
    plan = build(Case(recipe, bench.facts), selection, {}, joint_loss(0.0), ref, None, (40,), "0").value
    assert plan is not None
    return plan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("conformance") / "model"))


@pytest.fixture(scope="module")
def tiny_experts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("conformance") / "experts"
    family_base("mixtral", vocab_size=260).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_its_page_is_written_and_its_example_parses(kind: str, example: str) -> None:
    action = actions()[kind]
    for word in ("What:", "Why:", "Example:", "Source:"):
        assert word in (action.__doc__ or ""), word
    recipe = check_recipe(f"layers 0 {example}\nelse keep\n")
    assert recipe.ok, recipe.diagnostics
    assert recipe.value is not None
    made = recipe.value.rules[0].actions[0]
    assert type(made) is action
    # The canonical text means the same action.
    again = check_recipe(f"layers 0 {made.text()}\nelse keep\n").unwrap().rules[0].actions[0]
    assert again == made
    assert again.text() == made.text()


@pytest.mark.parametrize("kind", actions())
def test_a_bad_argument_is_a_diagnostic_with_a_place(kind: str) -> None:
    found = check_recipe(f"layers 0 {kind}(nonsense=3)\nelse keep\n")
    assert not found.ok
    problem = next(d for d in found.diagnostics if d.is_error)
    assert problem.span is not None
    assert problem.span.text == "nonsense"


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_planning_is_pure(kind: str, example: str, tiny: str, tiny_experts: str) -> None:
    # Four-bit floats are of bfloat16 alone.
    options = RunOptions(dtype="bfloat16" if "nvfp4" in example else None)
    bench = OpenModel(tiny_experts if kind == "experts" else tiny, options)
    facts = repr(bench.facts)
    assert planned(example, bench).digest == planned(example, bench).digest
    assert repr(bench.facts) == facts
    claims = check_recipe(f"layers 0 {example}").unwrap().rules[0].actions[0].claims()
    assert claims
    assert all(has_path(bench.facts.layer_specs[0], path) for path in claims)
