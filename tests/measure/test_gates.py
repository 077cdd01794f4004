"""Slopes of the answers' loss along gates, against a stock model with masks, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch.nn.functional import cross_entropy

from lbdsl.actions import actions
from lbdsl.measure import gates as module
from lbdsl.measure.gates import answer_slopes, gated_loss
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.rows import answer_rows
from lbdsl.model.surgery import to_hybrid
from tests.measure_cases import facts_of, tiny_llama

WINDOW, SINKS = 20, 2


@pytest.fixture(scope="module")
def base():
    return tiny_llama(dtype=torch.float64)


def rows():
    """Three answers about a long text, which they share, and two short questions."""
    ids = torch.randint(1, 97, (400,), generator=torch.Generator().manual_seed(2)).tolist()
    text = ids[:150]
    pairs = [([*text, *ids[200 + 9 * n : 205 + 9 * n]], ids[300 + 5 * n : 302 + 5 * n + n]) for n in range(3)]
    return answer_rows([*pairs, (ids[:40], ids[5:8]), (ids[60:90], ids[61:62])], positions=256)


def changes_of(base, layers=range(4)):
    action = actions()["swa"].model_validate({"window": WINDOW, "sinks": SINKS})
    return {layer: action.under(facts_of(base), layer) for layer in layers}


def naive_loss(base, ids_N, counted_N, gates) -> torch.Tensor:
    """Of one row, where layer l attends by (1 - gates[l]) over all, and by the rest through the window."""
    length = len(ids_N)
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    masks = [k <= q, (k <= q) & ((k > q - WINDOW) | (k < SINKS))]
    full, window = (torch.zeros(length, length).double().masked_fill(~mask, -torch.inf)[None, None] for mask in masks)
    hidden = base.model.embed_tokens(ids_N[None])
    places = base.model.rotary_emb(hidden, torch.arange(length)[None])
    for layer, gate in zip(base.model.layers, gates, strict=True):
        normed = layer.input_layernorm(hidden)
        own, other = (layer.self_attn(normed, position_embeddings=places, attention_mask=m)[0] for m in (full, window))
        hidden = hidden + own + gate * (other - own)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits = base.lm_head(base.model.norm(hidden))[0, :-1]
    return cross_entropy(logits[counted_N[1:]], ids_N[1:][counted_N[1:]], reduction="sum")


def naive_slopes(base, asked, weights_S, group, gate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss of a group of rows, and its slopes along the gates of layers 0, 1 and 3: layer 2 is not changed."""
    gates = [torch.tensor(gate, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    total = torch.zeros((), dtype=torch.float64)
    for row in group:
        end = 1 + int(asked.counted_SN[row].nonzero().max())
        ids_N, counted_N = asked.ids_SN[row, :end], asked.counted_SN[row, :end]
        total = total + weights_S[row] * naive_loss(base, ids_N, counted_N, [*gates[:2], torch.tensor(0.0), gates[2]])
    return total, torch.stack(torch.autograd.grad(total, gates))


@pytest.mark.parametrize("gate", [0.0, 0.5, 1.0])
def test_losses_and_slopes_are_those_of_a_loop_over_the_stock_model(base, gate: float) -> None:
    base.config._attn_implementation = "eager"
    asked, model = rows(), LoadedModel(to_hybrid(base))
    assert [len(group) for group in asked.groups] == [3, 2]
    weights_S = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.25], dtype=torch.float64)
    changes = changes_of(base, (0, 1, 3))
    for group in asked.groups:
        span = slice(group.start, group.stop)
        gates_L = torch.full((3,), gate, dtype=torch.float64, requires_grad=True)
        found = gated_loss(model, changes, asked.ids_SN[span], asked.counted_SN[span], weights_S[span], gates_L)
        wanted, naive = naive_slopes(base, asked, weights_S, group, gate)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
        (slopes_L,) = torch.autograd.grad(found, gates_L)
        assert torch.allclose(slopes_L, naive, rtol=1e-4, atol=1e-6)
        assert slopes_L.abs().min() > 1e-3


def test_a_screen_is_of_half_the_change(base, tmp_path: Path) -> None:
    """Each layer's slope at the midpoint of changing all of them, and at no other place."""
    base.config._attn_implementation = "eager"
    asked, model = rows(), LoadedModel(to_hybrid(base))
    found = answer_slopes(lambda: model, changes_of(base, (0, 1, 3)), asked, torch.ones(5).double(), tmp_path, "x")
    for number, group in enumerate(asked.groups):
        half, near = (naive_slopes(base, asked, torch.ones(5), group, gate)[1] for gate in (0.5, 0.48))
        assert torch.allclose(found[number], half, rtol=1e-4, atol=1e-6)
        assert ((near - half).abs() > 1e-4 * half.abs() + 1e-6).any()


def test_an_interrupted_screen_is_taken_up(base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, model, changes = rows(), LoadedModel(to_hybrid(base)), changes_of(base)
    whole = answer_slopes(lambda: model, changes, asked, torch.ones(5), tmp_path / "a", "x")
    calls, loss = [], module.gated_loss

    def counted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(module, "gated_loss", counted)
    with pytest.raises(KeyboardInterrupt):
        answer_slopes(lambda: model, changes, asked, torch.ones(5), tmp_path / "b", "x")
    again = answer_slopes(lambda: model, changes, asked, torch.ones(5), tmp_path / "b", "x")
    assert len(calls) == 3
    assert torch.equal(again, whole)
    # Other weights are measured anew.
    assert not torch.equal(answer_slopes(lambda: model, changes, asked, torch.zeros(5), tmp_path / "b", "x"), whole)
    # What is there and of another form is made anew.
    for slopes in (torch.zeros(1, len(changes)), torch.zeros(9, len(changes)).double(), torch.zeros(1).double()):
        for path in tmp_path.glob("a/screens/*"):
            path.write_bytes(save({"slopes": slopes}))
        assert torch.equal(answer_slopes(lambda: model, changes, asked, torch.ones(5), tmp_path / "a", "x"), whole)
    assert all(parameter.grad is None for parameter in model.hybrid.parameters())
