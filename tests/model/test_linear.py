"""Linear attention before a window: against the formula in float64, outputs, gradients, steps, padding, packed texts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lbdsl.model.hybrid import lbdsl_part_linear
from lbdsl.model.hybrid.lbdsl_part_linear import GAIN, LinearLayer, Mask, linear_attention

pytestmark = pytest.mark.torch


@pytest.fixture(params=[lbdsl_part_linear.SEGMENT, 7])
def segments(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lbdsl_part_linear, "SEGMENT", request.param)


def a_module(heads: int, kv_heads: int, size: int, window: int, features: str) -> SimpleNamespace:
    made = SimpleNamespace(linear_window=window, linear_features=features)
    made.window_gain = (torch.randn(heads, dtype=torch.float64) - 3).requires_grad_()  # what is before counts, too
    made.query_features = (0.3 * torch.randn(heads * size * size, dtype=torch.float64)).requires_grad_()
    made.key_features = (0.3 * torch.randn(kv_heads * size * size, dtype=torch.float64)).requires_grad_()
    return made


def with_sinks(module: SimpleNamespace) -> SimpleNamespace:
    module.sinks = torch.tensor([-3e4, -1.0, 0.5, 4.0], dtype=torch.float64, requires_grad=True)
    return module


def feature_map(x: torch.Tensor, matrix: torch.Tensor, features: str) -> torch.Tensor:
    if features == "elu":
        return 1 + torch.nn.functional.elu(x)
    x = x @ (torch.eye(len(x), dtype=x.dtype) + matrix)
    return torch.cat([x.softmax(0), (-x).softmax(0)])


def naive(module, query, key, value, sees) -> torch.Tensor:
    """[B, N, H, D]: the formula, token by token. `sees(row, t, i)`: whether token t may see token i."""
    B, H, N, D = query.shape
    G = key.shape[1]
    out = query.new_zeros(B, N, H, D)
    for b in range(B):
        for h in range(H):
            g = h * G // H
            of_query, of_key = (
                matrix.view(-1, D, D)[number] for matrix, number in ((module.query_features, h), (module.key_features, g))
            )
            for t in range(N):
                seen = [i for i in range(t + 1) if sees(b, t, i) or i == t]
                near = [i for i in seen if i > t - module.linear_window]
                score = torch.stack([query[b, h, t] @ key[b, g, i] / D**0.5 for i in near])
                sinks = [module.sinks[h]] if hasattr(module, "sinks") else []
                largest = torch.stack([score.max(), *sinks]).max()
                gain = GAIN * (D * D / 2 if module.linear_features == "elu" else 1) * module.window_gain[h].exp()
                weights = gain * (score - largest).exp()
                phi = feature_map(query[b, h, t], of_query, module.linear_features)
                far = [i for i in seen if i <= t - module.linear_window]
                theirs = [phi @ feature_map(key[b, g, i], of_key, module.linear_features) for i in far]
                every = torch.cat([weights, torch.stack(theirs)]) if theirs else weights
                below = every.sum() + sum(gain * (sink - largest).exp() for sink in sinks)
                out[b, t, h] = (every[:, None] * value[b, g, near + far]).sum(0) / below
    return out


def states(rows: int, heads: int, kv_heads: int, tokens: int, size: int) -> list[torch.Tensor]:
    shapes = ((rows, n, tokens, size) for n in (heads, kv_heads, kv_heads))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("features", ["hedgehog", "elu"])
@pytest.mark.parametrize(
    ("tokens", "window"), [(1, 3), (7, 8), (8, 8), (9, 8), (37, 5), (45, 1), pytest.param(150, 67, marks=pytest.mark.slow)]
)
def test_outputs_and_gradients_are_those_of_the_formula(tokens: int, window: int, features: str, sinks: bool) -> None:
    torch.manual_seed(tokens)
    module, of = a_module(4, 2, 4, window, features), states(2, 4, 2, tokens, 4)
    learned = [module.window_gain, *([module.query_features, module.key_features] if features == "hedgehog" else [])]
    if sinks:
        learned.append(with_sinks(module).sinks)
    found, _ = linear_attention(module, None, *of, None)
    expected = naive(module, *of, lambda *_: True)
    assert torch.allclose(found, expected, atol=1e-10)
    weights = torch.randn_like(found)
    every = [*of, *learned]
    grads = [torch.autograd.grad((out * weights).sum(), every, allow_unused=True) for out in (found, expected)]
    for one, other in zip(*grads, strict=True):
        # Nothing has left the window: the maps count for nothing.
        assert (one is None) or torch.allclose(one, torch.zeros_like(one) if other is None else other, atol=1e-9)
        assert other is None or one is not None


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("steps", [[1] * 40, [40], [3, 1, 1, 20, 7, 8], [12, 28]])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("features", ["hedgehog", "elu"])
def test_steps_of_any_length_give_what_one_forward_gives(steps: list[int], features: str, sinks: bool) -> None:
    torch.manual_seed(0)
    module, (query, key, value) = a_module(4, 2, 4, 6, features), states(3, 4, 2, 40, 4)
    module = with_sinks(module) if sinks else module
    whole, _ = linear_attention(module, None, query, key, value, None)
    layer, begin, found = LinearLayer(6), 0, []
    for step in steps:
        part = slice(begin, begin := begin + step)
        keys, values = layer.update(key[:, :, part], value[:, :, part])
        found.append(linear_attention(module, None, query[:, :, part], keys, values, None)[0])
    assert torch.allclose(torch.cat(found, 1), whole, atol=1e-10)
    assert layer.keys.shape[2] == 6
    assert layer.state.shape == (3, 2, 4 if features == "elu" else 8, 5)
    # Rows follow their beams, with all that they hold.
    layer.reorder_cache(torch.tensor([2, 0, 0]))
    new = states(3, 4, 2, 1, 4)
    keys, values = layer.update(*new[1:])
    one, _ = linear_attention(module, None, new[0], keys, values, None)
    order = [2, 0, 0]
    longer = (torch.cat([old[order], added], 2) for old, added in zip((query, key, value), new, strict=True))
    assert torch.allclose(one, linear_attention(module, None, *longer, None)[0][:, -1:], atol=1e-10)


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("steps", [[23], [9, 1, 1, 12], [14, 9]])
def test_padding_on_the_left_changes_nothing(steps: list[int], sinks: bool) -> None:
    torch.manual_seed(1)
    module, (query, key, value) = a_module(4, 1, 4, 5, "hedgehog"), states(2, 4, 1, 23, 4)
    module = with_sinks(module) if sinks else module
    real = torch.ones(2, 23, dtype=torch.bool)
    real[1, :10] = False
    layer, begin, found = LinearLayer(5), 0, []
    for step in steps:
        part = slice(begin, begin := begin + step)
        keys, values = layer.update(key[:, :, part], value[:, :, part])
        found.append(linear_attention(module, None, query[:, :, part], keys, values, Mask(real[:, :begin], None))[0])
    alone, _ = linear_attention(module, None, *(one[1:, :, 10:] for one in (query, key, value)), None)
    both = torch.cat(found, 1)
    assert torch.allclose(both[1:, 10:], alone, atol=1e-10)
    assert both.isfinite().all()
    assert torch.allclose(both, naive(module, query, key, value, lambda b, _, i: bool(real[b, i])), atol=1e-10)


@pytest.mark.parametrize("sinks", [False, True])
def test_packed_texts_see_themselves_alone(sinks: bool) -> None:
    torch.manual_seed(2)
    module, of = a_module(4, 1, 4, 4, "hedgehog"), states(1, 4, 1, 30, 4)
    module = with_sinks(module) if sinks else module
    segments = torch.tensor([[0] * 11 + [1] * 19])
    found, _ = linear_attention(module, None, *of, Mask(None, segments))
    both = slice(11), slice(11, 30)
    parts = [linear_attention(module, None, *(one[:, :, part] for one in of), None)[0] for part in both]
    assert torch.allclose(found, torch.cat(parts, 1), atol=1e-10)


def test_what_left_the_window_does_not_come_back() -> None:
    module, (query, key, value) = a_module(2, 1, 4, 4, "elu"), states(1, 2, 1, 9, 4)
    layer = LinearLayer(4)
    layer.update(key[:, :, :4], value[:, :, :4])
    layer.crop(-2)
    assert (layer.seen, layer.keys.shape[2]) == (2, 2)
    keys, values = layer.update(key[:, :, 2:], value[:, :, 2:])
    linear_attention(module, None, query[:, :, 2:], keys, values, None)
    with pytest.raises(ValueError, match="in the state"):
        layer.crop(-1)
    layer.reset()
    assert (layer.seen, layer.state) == (0, None)


def test_chunks_are_steps_in_float32() -> None:
    torch.manual_seed(3)
    module = a_module(6, 2, 16, 20, "hedgehog")
    for name in ("window_gain", "query_features", "key_features"):
        setattr(module, name, getattr(module, name).detach().float())
    query, key, value = (one.detach().float() for one in states(2, 6, 2, 300, 16))
    whole, _ = linear_attention(module, None, query, key, value, None)
    layer, found = LinearLayer(20), []
    for at in range(300):
        keys, values = layer.update(key[:, :, at : at + 1], value[:, :, at : at + 1])
        found.append(linear_attention(module, None, query[:, :, at : at + 1], keys, values, None)[0])
    assert torch.allclose(torch.cat(found, 1), whole, atol=1e-5)


def test_sums_stay_exact_under_autocast() -> None:
    torch.manual_seed(4)
    module = a_module(4, 2, 8, 6, "hedgehog")
    for name in ("window_gain", "query_features", "key_features"):
        setattr(module, name, getattr(module, name).detach().float())
    of = [one.detach().float() for one in states(1, 4, 2, 90, 8)]
    whole, _ = linear_attention(module, None, *of, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = linear_attention(module, None, *of, None)
    assert torch.equal(found, whole)
