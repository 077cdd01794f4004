"""Statistics of a changed model, handed over layer by layer: what an action that writes weights after healing takes."""

from __future__ import annotations

import pytest
import torch

from lbdsl.actions.drop import Drop
from lbdsl.core.diagnostic import LbdslError
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.weights import Stat
from lbdsl.measure import statistics
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.model.surgery import to_hybrid
from tests.measure_cases import facts_of, tiny_llama

pytestmark = pytest.mark.torch


def test_each_layer_is_of_the_model_as_it_is_and_alone_in_memory() -> None:
    base = tiny_llama().eval()
    facts, model = facts_of(base), to_hybrid(base)
    model.set_layer(1, Drop().under(facts, 1).spec.to_json())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    width = facts.layer_specs[0].ffn.width
    stat = Stat(kind="channel_importance", dims=(width,))
    ids = torch.randint(1, 90, (3, 20), generator=torch.Generator().manual_seed(0))
    inputs: dict[int, list[torch.Tensor]] = {}
    for index, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _module, args, index=index: inputs.setdefault(index, []).append(args[0].flatten(0, -2))
        )
    with torch.no_grad():
        model(input_ids=ids)
    naive = {
        index: torch.cat(seen).double().abs().mean(0) * model.model.layers[index].mlp.down_proj.weight.double().norm(dim=0)
        for index, seen in inputs.items()
    }
    found = []

    def use(layer: int, values) -> None:
        assert set(values) == {stat.text}
        assert torch.allclose(values[stat.text].double(), naive[layer], rtol=1e-5)
        found.append(layer)

    blocks = TokenBlocks(ids, "", "random", 1, None)
    statistics.pass_over(LoadedModel(model), facts, {1: (stat,), 2: (stat,)}, blocks, use, batch=2)
    assert found == [1, 2]


def test_hidden_states_that_do_not_fit_in_memory_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(statistics, "room_for_streams", lambda _: 1000)
    base = tiny_llama().eval()
    blocks = TokenBlocks(torch.zeros(4, 25, dtype=torch.long), "", "random", 1, None)
    with pytest.raises(LbdslError, match=r"hidden states; 1000 B") as problem:
        statistics.check_streams(LoadedModel(to_hybrid(base)), (blocks,), 2)
    (said,) = problem.value.diagnostics
    assert said.code == "LB346"
    per_token = 2 * 4 * base.config.hidden_size
    assert said.help == (f"measure on at most {1000 // per_token} tokens",)


def test_statistics_that_would_fill_the_disk_are_refused(tmp_path) -> None:
    facts = facts_of(tiny_llama())
    stat = Stat(kind="input_gram", args=(("module", "mlp.down_proj"),), dims=(2**16, 2**17))
    blocks = TokenBlocks(torch.zeros(1, 4, dtype=torch.long), "", "random", 1, None)
    with pytest.raises(LbdslError, match="the statistics of this plan would take") as problem:
        statistics.take_statistics(None, facts, {0: (stat,)}, blocks, tmp_path, "")
    assert [d.code for d in problem.value.diagnostics] == ["LB346"]
