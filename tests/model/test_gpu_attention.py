"""Windows and single tokens by the kernels within a model, in Triton's interpreter; what is timed decides."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux on x86-64")

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels on a CPU need Triton's interpreter", allow_module_level=True)

from lbdsl.kernels import choice
from lbdsl.model.hybrid import lbdsl_gpu_attention, lbdsl_window_attention
from tests.hybrid_cases import FULL, cached_logits, hybrid_of, stock_logits, swa, tiny_base
from tests.specs import LEARNED


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is asked whether kernels pay, which they always do."""
    asked: list[object] = []

    def pay(inputs: choice.Inputs, *window: int) -> bool:
        asked.append((inputs.tokens, *window))
        return True

    kernels = {"windows_pay": pay, "single_tokens_pay": pay}
    kernels |= {name: getattr(choice, name) for name in ("Inputs", "window_attention", "decode_attention")}
    for module in lbdsl_gpu_attention, lbdsl_window_attention:
        monkeypatch.setattr(module, "kernels_for", lambda kind: SimpleNamespace(**kernels))
    return asked


@pytest.mark.parametrize("sinks", [0, 3])
def test_a_model_reads_a_prompt_and_single_tokens_by_the_kernels(sinks: int, used: list[object]) -> None:
    base, specs = tiny_base(), [swa(20, sinks), swa(30, sinks), FULL, FULL]
    model = hybrid_of(base, specs)
    ids = torch.randint(0, 101, (2, 71), generator=torch.Generator().manual_seed(1))
    assert (cached_logits(model, ids, 70) - stock_logits(base, specs, ids)).abs().max() < 1e-4
    assert used == [(70, 20, sinks), (70, 30, sinks), (20 + sinks,), (30 + sinks,)]


def test_learned_sinks_and_gradients(used: list[object]) -> None:
    model = hybrid_of(tiny_base(), [swa(20, LEARNED), swa(30, LEARNED), FULL, FULL])
    for layer in model.model.layers[:2]:
        layer.self_attn.sinks.data.copy_(torch.tensor([0.5, -1.0, 2.0, 3.0]))
    ids = torch.randint(0, 101, (1, 70), generator=torch.Generator().manual_seed(2))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    by_kernel, answers = gradients(), cached_logits(model, ids, 69)
    assert used
    used.clear()
    model.set_attn_implementation("eager")
    for name, expected in gradients().items():
        assert (by_kernel[name] - expected).abs().max() < 1e-4, name
    assert (cached_logits(model, ids, 69) - answers).abs().max() < 1e-4
    assert not used


def test_a_cpu_and_a_machine_without_lbdsl_have_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    lbdsl_gpu_attention.kernels_for.cache_clear()
    assert lbdsl_gpu_attention.kernels_for("cpu") is None
    assert lbdsl_gpu_attention.kernels_for("cuda") is choice
    lbdsl_gpu_attention.kernels_for.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "lbdsl.kernels", None)
    assert lbdsl_gpu_attention.kernels_for("cuda") is None
    lbdsl_gpu_attention.kernels_for.cache_clear()


@pytest.mark.parametrize("backward", [False, True])
def test_the_faster_way_is_chosen_once_for_inputs_of_a_kind(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    slow = choice.window_attention
    monkeypatch.setattr(choice, "window_attention", lambda *args: calls.append(args[0].shape) or slow(*args))
    inputs = choice.Inputs(torch.device("cpu"), torch.float32, 1, 2, 1, 16, 70, backward)
    # The interpreter is slower than PyTorch.
    assert not choice.windows_pay(inputs, 20, 2)
    assert set(calls) == {(1, 2, 128, 16)}
    calls.clear()
    assert not choice.windows_pay(choice.replace(inputs, tokens=100), 20, 2)
    assert not calls
    monkeypatch.setattr(choice, "window_attention", lambda query, key, value, *_: query + key + value)
    assert choice.windows_pay(inputs, 21, 2)
    assert not choice.windows_pay(inputs, 128, 2), "such a window is the whole text"


def test_inputs_without_room_to_time_them_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(choice.Inputs, "states", full)
    with pytest.warns(UserWarning, match="no room"):
        assert not choice.windows_pay(choice.Inputs(torch.device("cpu"), torch.float32, 1, 2, 1, 16, 70), 23, 0)


def test_single_tokens_by_the_faster_way(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = choice.Inputs(torch.device("cpu"), torch.float32, 3, 6, 2, 16, 70)
    assert not choice.single_tokens_pay(inputs)
    monkeypatch.setattr(choice, "decode_attention", lambda query, *_: query)
    assert choice.single_tokens_pay(choice.replace(inputs, batch=1))


def test_long_and_wide_inputs_are_timed_as_shorter_ones() -> None:
    inputs = choice.Inputs(torch.device("cpu"), torch.float32, 100, 9, 3, 64, 100_000)
    assert (inputs.rounded().batch, inputs.rounded().tokens) == (4, choice.MOST_TOKENS)
