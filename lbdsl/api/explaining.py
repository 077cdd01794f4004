"""The real diagnostics of the examples of diagnostic codes: each is checked, and planned on a model with fake scores."""

from __future__ import annotations

from collections.abc import Mapping

from lbdsl.core.codes import Code
from lbdsl.core.diagnostic import Diagnostic
from lbdsl.core.digest import digest_text
from lbdsl.core.measurement import Measurement, Request
from lbdsl.metrics import Of, metric_of, metrics_of
from lbdsl.model.layout import layout_of
from lbdsl.plan.build import build
from lbdsl.plan.lengths import with_lengths
from lbdsl.plan.made_from import ModelRef
from lbdsl.plan.schema import Loss, ScoreValue
from lbdsl.recipe.load import recipe_from_text
from lbdsl.recipe.reading import TextsReader
from lbdsl.recipe.schema import Recipe
from lbdsl.solve.case import Case
from lbdsl.solve.select import select

EXAMPLE_NAME = "recipe.lbr"
"""The name of the file that an example is in."""

EXAMPLE_FILES: Mapping[str, str] = {
    "core.lbr": "group @core = first 2, last 1\n",
}
"""The other files in the example's folder."""

EXAMPLE_MODEL = layout_of(
    {
        "model_type": "llama",
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
).facts("bfloat16")
"""The shapes of SmolLM2-135M: a Llama of 30 layers with 8Ki positions."""


def example_findings(code: Code) -> tuple[Diagnostic, ...]:
    """The findings with this code that its example gives; none for a code without an example."""
    return tuple(d for d in text_findings(code.example) if d.code == code.id) if code.example else ()


def text_findings(text: str) -> tuple[Diagnostic, ...]:
    """All findings in a recipe: without a model, and when that has no errors, also on the example model."""
    files = ((name, held, digest_text(held)) for name, held in {**EXAMPLE_FILES, EXAMPLE_NAME: text}.items())
    checked = recipe_from_text(text, EXAMPLE_NAME, reader=TextsReader(files, EXAMPLE_NAME, "beside the recipe"))
    return (*checked.diagnostics, *(planned_findings(checked.value) if checked.value is not None else ()))


def _scores(case: Case) -> Mapping[Request, Measurement]:
    """Fake scores for the recipe's requests: high for the first and last layers, as in real models."""
    if case.measurable().value is None:
        return {}
    scores = {}
    for request in case.requests:
        edge = min(request.layer, case.facts.layers - 1 - request.layer)
        value = 0.02 + 0.5 / (1 + edge) + 0.001 * ((7 * request.layer) % 5)
        scores[request] = Measurement(value, 0.004, metric_of(request.metric).unit, 8192, 8)
    return scores


def planned_findings(recipe: Recipe) -> tuple[Diagnostic, ...]:
    """The planner's findings for a valid recipe on the example model."""
    facts = EXAMPLE_MODEL
    lengths = with_lengths(Case(recipe, facts))
    if lengths.value is None:
        return lengths.diagnostics
    case = lengths.value
    scores = _scores(case)
    chosen = select(case, scores)
    if chosen.value is None:
        return chosen.diagnostics
    ref = ModelRef(
        source="example", digest="0" * 64, family=facts.family, layers=facts.layers, dtype=facts.dtype, facts=facts
    )
    rise = 0.06 if chosen.value.changed else 0.0
    measured = {
        name: ScoreValue(value=rise, stderr=0.01, unit=metric.unit) for name, metric in metrics_of(Of.CHANGED).items()
    }
    loss = Loss(scores=measured, base_nll=2.2, tokens=4096)
    built = build(case, chosen.value, scores, loss, ref, None, found=chosen.diagnostics)
    return (*lengths.diagnostics, *chosen.diagnostics, *built.diagnostics)
