"""The steps of healing by hand, in float64: rates, clipping, the loss scaler, and what is random in training."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lbdsl.heal.loop import Loop, Watch
from lbdsl.heal.noise import noise_of
from lbdsl.heal.text import HealingText
from lbdsl.heal.validation import Validation
from lbdsl.recipe.schema import FullWeights
from lbdsl.recipe.schema_blocks import Stage
from tests.heal.test_heal import damaged, run, tiny


class Slope(nn.Module):
    """A loss whose gradient is `slope` on each of two weights, or what `slopes` says step by step."""

    def __init__(self, *slopes: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.slopes, self.calls = slopes, 0

    def forward(self, **_: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.slopes[(self.calls - 1) % len(self.slopes)] * self.weight.sum()


def stage(steps: int, **settings: object) -> Stage:
    return Stage.model_validate({"tokens": 8 * steps, "seq": 8, "batch": 1, "method": FullWeights(), "lr": 0.5, **settings})


def loop_of(objective: nn.Module, one: Stage, folder: Path, **rest: object) -> Loop:
    text = HealingText(torch.zeros(one.steps, one.seq, dtype=torch.long))
    return Loop(objective, one, text, folder, torch.device("cpu"), torch.float32, **rest)  # type: ignore[arg-type]


def watch() -> Watch:
    return Watch(lambda *_: None, lambda *_: None, lambda: False, 1e9)


def rates(one: Stage, folder: Path) -> list[float]:
    """The rate of each step, as the optimizer has it when it steps."""
    loop, found = loop_of(Slope(1.0), one, folder), []
    loop._optimizer.register_step_pre_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    loop.train(watch())
    return found


def by_hand(one: Stage) -> list[float]:
    warm = math.ceil(one.warmup * one.steps)
    shapes = {
        "constant": lambda done: 1.0,
        "linear": lambda done: 1 - done,
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    }
    return [
        one.lr * ((n + 1) / (warm + 1) if n < warm else shapes[one.schedule]((n - warm) / (one.steps - warm)))
        for n in range(one.steps)
    ]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.05), (20, 0.05), (20, 0.25), (7, 0.0)])
def test_no_step_has_a_rate_of_0(tmp_path: Path, schedule: str, steps: int, warmup: float) -> None:
    one = stage(steps, schedule=schedule, warmup=warmup)
    assert rates(one, tmp_path) == pytest.approx(by_hand(one), rel=1e-12)
    assert min(rates(one, tmp_path)) > 0


def test_a_stage_of_one_step_moves_the_weights(tmp_path: Path) -> None:
    objective = Slope(1.0)
    loop_of(objective, stage(1), tmp_path).train(watch())
    # Adam's first step is the rate, half of `lr` as one of two steps of warm-up.
    assert objective.weight.tolist() == pytest.approx([-0.25, -0.25], rel=1e-6)


@pytest.mark.parametrize("slope", [0.25, 30.0])
def test_gradients_are_clipped_at_a_norm_of_1(tmp_path: Path, slope: float) -> None:
    loop = loop_of(Slope(slope), stage(1), tmp_path)
    seen = []
    loop._optimizer.register_step_pre_hook(lambda *_: seen.append(loop.objective.weight.grad.clone()))
    loop.train(watch())
    norm = slope * math.sqrt(2)
    assert seen[0].tolist() == pytest.approx([slope / max(1.0, norm)] * 2, rel=1e-5)


def test_a_step_that_the_scaler_skips_does_not_move_the_schedule(tmp_path: Path) -> None:
    """float16: the second of four gradients overflows. The scale is in the checkpoint."""
    one, scale = stage(4, schedule="linear", warmup=0.0), 2.0**10

    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=scale)

    loop = loop_of(Slope(1.0, math.inf, 1.0, 1.0), one, tmp_path, scaler=scaler())
    loop.train(watch())
    assert loop._optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * (1 - 3 / 4))
    assert loop._scaler.get_scale() == scale / 2
    again = loop_of(Slope(1.0), one, tmp_path, scaler=scaler())
    again.resume(tmp_path / "checkpoint-4")
    assert again._scaler.get_scale() == scale / 2
    assert again._schedule.last_epoch == 3


def test_a_checkpoint_without_a_scale_is_read(tmp_path: Path) -> None:
    one = stage(2)
    loop = loop_of(Slope(1.0), one, tmp_path)
    loop.train(watch())
    path = tmp_path / "checkpoint-2" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["scaler"]
    torch.save(state, path)
    again = loop_of(Slope(1.0), one, tmp_path)
    again.resume(tmp_path / "checkpoint-2")
    assert again.step == 2


def test_dropout_of_the_configuration_is_0_while_it_heals(tmp_path: Path) -> None:
    """The healed weights are those of a model without dropout, and the configuration is as it was."""
    teacher = tiny()
    noisy = damaged(teacher)
    noisy.config.attention_dropout = 0.5
    for layer in noisy.model.layers:
        layer.self_attn.attention_dropout = 0.5
    noise = noise_of(noisy)
    assert {name for _, name in noise} == {"attention_dropout"}
    assert len(noise) == 4
    plain, _ = run(teacher, damaged(teacher), tmp_path / "plain")
    healed, _ = run(teacher, copy.deepcopy(noisy), tmp_path / "noisy")
    for (name, one), (_, other) in zip(plain.named_parameters(), healed.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert noise_of(healed) == noise


def test_best_weights_are_those_of_the_least_loss(tmp_path: Path) -> None:
    """Not of the last, of the first, nor of an equal one that came later."""
    model = nn.Linear(1, 1, bias=False)
    validation = Validation(tmp_path, 1)
    for step, loss in enumerate([3.0, 1.0, 2.0, 1.0]):
        model.weight.data.fill_(step)
        validation.add(step, step * 8, loss, model)
    assert validation.best == (1, 8, 1.0)
    validation.restore(model)
    assert model.weight.item() == 1.0


@pytest.mark.parametrize(("losses", "goes_on"), [
    ([1.0, 2, 2, 2], True), ([1.0, 2, 2, 2, 2], False), ([2.0, 3, 3, 3, 1], True), ([1.0, 1, 1, 1, 1], False),
    ([3.0, 2, 2.5, 2.5, 2.5], True), ([3.0, 2, 2.5, 2.5, 2.5, 2], False),
])  # fmt: skip
def test_patience_is_four_looks_without_a_better_one(tmp_path: Path, losses: list[float], goes_on: bool) -> None:
    points = [(step, step, loss) for step, loss in enumerate(losses)]
    assert Validation(tmp_path, 1, points=points).patient is goes_on
