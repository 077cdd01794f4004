"""The screen against exact KLs of small changes, for which the second order is all that matters."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from lbdsl.actions import actions
from lbdsl.measure import screen as module
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.screen import screen
from lbdsl.model.surgery import to_hybrid
from tests.measure_cases import LAYERS, facts_of, naive_scores, text, tiny_llama


@pytest.fixture(scope="module")
def faint():
    """A model whose attentions add little."""
    model = tiny_llama()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data *= 0.03
    return model


def test_small_changes_have_the_kl_of_the_screen(faint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, blocks = facts_of(faint), text(60, 37)
    drop, window = actions()["drop"].model_validate({}), actions()["swa"].model_validate({"window": 4})
    changes = [(layer, action.under(facts, layer)) for layer in range(LAYERS) for action in (drop, window)]
    source = LoadedModel(to_hybrid(copy.deepcopy(faint)))
    found = screen(lambda: source, changes, blocks, tmp_path, "x", batch=7)
    positions = blocks.sequences * found.positions
    assert found.positions == 36
    assert torch.allclose(found.squares_SP.sum(0), found.products_PP.diagonal())
    for number, (layer, change) in enumerate(changes):
        exact = naive_scores(faint, blocks.ids, {layer: change.spec})["kl"].mean()
        assert 0.5 * float(found.products_PP[number, number]) / positions == pytest.approx(float(exact), rel=0.35)
    # All four drops together: half the square of the sum.
    drops = [0, 2, 4, 6]
    exact = naive_scores(faint, blocks.ids, {layer: changes[2 * layer][1].spec for layer in range(LAYERS)})["kl"].mean()
    together = 0.5 * float(found.products_PP[drops][:, drops].sum()) / positions
    alone = 0.5 * float(found.products_PP[drops, drops].sum()) / positions
    assert together == pytest.approx(float(exact), rel=0.35)
    assert abs(together - float(exact)) < abs(alone - float(exact)) or alone == pytest.approx(float(exact), rel=0.2)
    # It is kept; another seed is another one.
    with monkeypatch.context() as patch:
        patch.setattr(module, "_effects", None)
        again = screen(lambda: source, changes, blocks, tmp_path, "x", batch=7)
    assert torch.equal(again.products_PP, found.products_PP)
    other = screen(lambda: source, changes, blocks, tmp_path, "x", batch=7, seed=1)
    assert not torch.equal(other.products_PP, found.products_PP)
    assert all(parameter.grad is None for parameter in source.hybrid.parameters())


def test_an_interrupted_screen_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, blocks = tiny_llama(), text(5, 16)
    drop = actions()["drop"].model_validate({})
    changes = [(layer, drop.under(facts_of(model), layer)) for layer in range(LAYERS)]
    source = LoadedModel(to_hybrid(model))
    whole = screen(lambda: source, changes, blocks, tmp_path / "whole", "x", batch=2)
    own, seen = module._effects, []

    def effects(source, changes, ids_BN, *rest):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(ids_BN)
        return own(source, changes, ids_BN, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_effects", effects)
        with pytest.raises(KeyboardInterrupt):
            screen(lambda: source, changes, blocks, tmp_path, "x", batch=2)
        seen[:] = seen[1:]
        found = screen(lambda: source, changes, blocks, tmp_path, "x", batch=2)
    assert torch.equal(torch.cat(seen), blocks.ids[2:])
    assert torch.equal(found.squares_SP, whole.squares_SP)
    assert torch.equal(found.products_PP, whole.products_PP)
    # What is there and of another form is made anew.
    (path,) = tmp_path.glob("screens/*")
    for squares, products in ((torch.zeros(2, 3), torch.zeros(3, 3)), (torch.zeros(9, len(changes)), whole.products_PP)):
        path.write_bytes(save({"squares": squares.double(), "products": products}))
        assert torch.equal(screen(lambda: source, changes, blocks, tmp_path, "x", batch=2).squares_SP, whole.squares_SP)
