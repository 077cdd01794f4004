"""The fit of learned sinks against a search head by head in float64, and what `swa(sinks=learned)` makes of a layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lbdsl.actions.swa import SlidingWindow
from lbdsl.layer.spec import LayerSpec
from lbdsl.measure.statistics import observed_attention
from lbdsl.model.surgery import to_hybrid
from lbdsl.parts.attention import NO_SINK
from lbdsl.statistics import Attended, Observed
from lbdsl.statistics import sink_logits as fit
from tests.export_cases import base_facts
from tests.layer_changes import swa
from tests.specs import LEARNED
from tests.tiny_model import tiny_llama

HEADS, KV_HEADS, LENGTH, SIZE, WINDOW = 4, 2, 37, 8, 6


def states(seed: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values. Queries of the first two heads are near to the first token's key, whose value is small, as
    in real models; values of the other two are all alike, so that a sink can only harm."""
    chance = torch.Generator().manual_seed(seed)
    query = torch.randn(2, HEADS, LENGTH, SIZE, generator=chance)
    key = torch.randn(2, KV_HEADS, LENGTH, SIZE, generator=chance)
    value = torch.randn(2, KV_HEADS, LENGTH, SIZE, generator=chance) + 1
    key[:, 0, 0], value[:, 0, 0] = 3, 0.1
    value[:, 1] = 1
    query[:, :2] += 1
    return query, key, value


def outputs(query, key, value, scaling, window, sink=None):
    """[B, H, N, D] in float64, and the logarithms of the denominators."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(groups, 1) for x in (key, value))
    place = torch.arange(LENGTH)
    seen = (place <= place[:, None]) & (place > place[:, None] - window)
    scores = (query.double() @ key.mT * scaling).masked_fill(~seen, -torch.inf)
    if sink is not None:
        scores = torch.cat([scores, torch.full((*scores.shape[:3], 1), sink, dtype=torch.float64)], -1)
    return scores.softmax(-1)[..., :LENGTH] @ value


def test_sums_are_of_a_window_of_so_many_tokens() -> None:
    """Over all bins: the squares of what each head adds through the window, and its products with what it adds now."""
    projection = torch.randn(10, HEADS * SIZE, generator=torch.Generator().manual_seed(9))
    query, key, value = states(0)
    now = outputs(query, key, value, 0.5, LENGTH)
    sums: dict[str, torch.Tensor] = {}
    seen = Attended(query, key, value, now.transpose(1, 2).float(), 0.5)
    fit.SinkLogits(window=WINDOW).add_attention(sums, seen, lambda _name: projection)
    heads = projection.double().unflatten(1, (HEADS, SIZE))
    own, other = (torch.einsum("bhnd,ehd->bhne", out, heads) for out in (outputs(query, key, value, 0.5, WINDOW), now))
    assert torch.allclose(sums["own"].double().sum(1), own.square().sum((0, 2, 3)), rtol=1e-5, atol=0)
    assert torch.allclose(sums["cross"].double().sum(1), (own * other).sum((0, 2, 3)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("own_window", [LENGTH, 20])
def test_no_other_sink_is_better(own_window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SCORES", 5 * 2 * HEADS * LENGTH)
    projection = torch.randn(10, HEADS * SIZE, generator=torch.Generator().manual_seed(9))
    statistic, sums = fit.SinkLogits(window=WINDOW), {}
    batches = [states(0), states(1)]
    for query, key, value in batches:
        output = outputs(query, key, value, 0.5, own_window).transpose(1, 2).float()
        statistic.add_attention(sums, Attended(query, key, value, output, 0.5), lambda _name: projection)
    found = statistic.value(Observed(sums, 4 * LENGTH, None, None, None))  # type: ignore[arg-type]
    heads = projection.double().unflatten(1, (HEADS, SIZE))

    def errors(sink: float | None) -> torch.Tensor:
        total = torch.zeros(HEADS, dtype=torch.float64)
        for batch in batches:
            apart = outputs(*batch, 0.5, WINDOW, sink) - outputs(*batch, 0.5, own_window)
            total += torch.einsum("bhnd,ehd->bhne", apart, heads).square().sum((0, 2, 3))
        return total

    none, best = errors(None), torch.stack([errors(sink) for sink in torch.arange(-10, 20, 0.25).tolist()]).min(0).values
    for head, sink in enumerate(found.tolist()):
        error = errors(sink)[head]
        assert error <= none[head]
        assert error <= 1.01 * min(best[head], none[head])
    assert (found[:2] > 0).all()
    assert found[2:].tolist() == [NO_SINK] * 2
    assert (best[:2] < 0.8 * none[:2]).all()


def test_a_learned_sink_is_one_number_a_head() -> None:
    _, facts = base_facts("llama")
    change = SlidingWindow(window=8, sinks="learned").under(facts, 1)
    base = facts.layer_specs[1]
    new = {tensor.name: tensor.shape for tensor in change.spec.tensors(facts)}
    assert new == {**{tensor.name: tensor.shape for tensor in base.tensors(facts)}, "self_attn.sinks": (4,)}
    assert change.spec.mixer.window.held == 8
    assert change.spec.to_json()["mixer"]["window"] == {"size": 8, "sink_tokens": 0, "sink_logits": True}
    plain = SlidingWindow(window=8).under(facts, 1)
    assert plain.spec.to_json()["mixer"]["window"] == {"size": 8, "sink_tokens": 0}


@pytest.mark.parametrize("sinks", [0, 3, LEARNED])
def test_the_fit_is_to_the_layer_as_it_is(sinks: int) -> None:
    """What is observed of a layer with a window and sinks of its own."""
    model = to_hybrid(tiny_llama())
    (ids,) = torch.randint(1, 90, (1, 2, LENGTH), generator=torch.Generator().manual_seed(0))
    layer = model.model.layers[1]
    spec = swa(9, sinks).of(layer.spec)
    made = {"self_attn.sinks": torch.full((spec["mixer"]["heads"],), 0.5)} if sinks == LEARNED else {}
    model.set_layer(1, spec, made)
    attention = model.model.layers[1].self_attn
    seen, outputs = [], []
    attention.o_proj.register_forward_pre_hook(lambda _module, inputs: outputs.append(inputs[0]))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with observed_attention(attention, seen.append):
            assert torch.equal(model(input_ids=ids).logits, before)
        assert torch.equal(model(input_ids=ids).logits, before)
    (found,) = seen
    assert torch.equal(found.output_BNHD.flatten(2), outputs[1])
    assert found.query_BHND.shape[-1] == found.key_BGND.shape[-1] == spec["mixer"]["head_dim"]
    assert found.key_BGND.shape[2] == LENGTH


def test_a_window_that_is_there_already_keeps_its_sinks() -> None:
    _, facts = base_facts("llama")
    specs = [swa(9, LEARNED).of(spec.to_json()) for spec in facts.layer_specs]
    learned = replace(facts, layer_specs=tuple(LayerSpec.model_validate(spec) for spec in specs))
    base = learned.layer_specs[1]
    for wider in (9, 20):
        assert not SlidingWindow(window=wider, sinks="learned").weights(base, base, learned)
    narrower = SlidingWindow(window=5, sinks="learned").under(learned, 1)
    assert [name for name, _ in narrower.weights] == ["self_attn.sinks"]


@pytest.mark.parametrize("layer", [0, 1])
def test_capped_scores_have_no_learned_sinks(layer: int) -> None:
    _, facts = base_facts("gemma2", head_dim=16, sliding_window=20)
    (problem,) = SlidingWindow(window=20, sinks="learned").check(facts, layer)
    assert problem.code == "LB318"
    assert "gemma2" in problem.message
