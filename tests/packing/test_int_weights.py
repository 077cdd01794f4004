"""Integers and scales against naive references, and their words against compressed-tensors'."""

from __future__ import annotations

import pytest
import torch

from lbdsl.packing import packings
from lbdsl.packing.int_weights import TRIED
from lbdsl.parts import TensorShape
from lbdsl.parts.int_weights import MIN_SCALE, Int

PACKING = packings()["int"]
FORMS = [
    Int(bits=4, group=32),
    Int(bits=4, group=96),
    Int(bits=8, group=64),
    Int(bits=8, group="row", activations=8),
]
SHAPES = [(1, 192), (5, 192), (67, 576)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_scale(weights: list[float], most: int) -> float:
    scale = max(map(abs, weights)) / most
    return max(torch.tensor(scale, dtype=torch.float64).to(torch.bfloat16).item(), MIN_SCALE)


def naive(weight: torch.Tensor, form: Int) -> tuple[torch.Tensor, torch.Tensor]:
    """Group by group, one number after the other."""
    integers, scales = [], []
    for row in weight.double().tolist():
        size = len(row) if form.group == "row" else form.group
        groups = [row[start : start + size] for start in range(0, len(row), size)]
        own = [naive_scale(group, form.most) for group in groups]
        pairs = zip(groups, own, strict=True)
        integers.append([max(-form.most, min(form.most, round(w / scale))) for group, scale in pairs for w in group])
        scales.append(own)
    return torch.tensor(integers, dtype=torch.int8), torch.tensor(scales)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS, ids=Int.text)
def test_integers_and_scales_are_those_of_the_definition(form: Int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random(*shape).to(dtype)
    tensors = PACKING.pack(form, weight)
    integers, scales = PACKING.integers(form, tensors)
    expected, of_groups = naive(weight, form)
    assert torch.equal(integers, expected)
    assert torch.equal(scales.double(), of_groups.double())
    # Every container holds the same scale.
    assert torch.equal(scales.half().double(), scales.double())
    exact = integers.double().unflatten(1, (scales.shape[1], -1)) * scales.double().unsqueeze(-1)
    assert torch.equal(PACKING.unpack(form, tensors), exact.flatten(1).to(dtype))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS, ids=Int.text)
def test_tensors_are_the_planned_ones(form: Int, shape: tuple[int, int]) -> None:
    class Model:
        dtype = "bfloat16"

    planned = form.saved_tensors(TensorShape("mlp.up_proj.weight", shape), Model())  # type: ignore[arg-type]
    tensors = PACKING.pack(form, random(*shape).bfloat16())
    found = {name: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in tensors.items()}
    assert found == planned


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS[:3], ids=Int.text)
def test_words_are_those_of_compressed_tensors(form: Int, shape: tuple[int, int]) -> None:
    from compressed_tensors.compressors.pack_quantized import helpers

    tensors = PACKING.pack(form, random(*shape))
    integers, _ = PACKING.integers(form, tensors)
    assert torch.equal(helpers.pack_to_int32(integers, form.bits), tensors["weight_packed"])
    assert torch.equal(helpers.unpack_from_int32(tensors["weight_packed"], form.bits, torch.Size(shape)), integers)
    assert tensors["weight_shape"].tolist() == list(shape)


def test_zeros_have_the_smallest_scale() -> None:
    tensors = PACKING.pack(FORMS[0], torch.zeros(3, 64))
    assert set(tensors["weight_scale"].flatten().tolist()) == {MIN_SCALE}
    assert not PACKING.unpack(FORMS[0], tensors).any()


def inputs(columns: int, tokens: int = 400) -> torch.Tensor:
    """Inputs whose elements go together, as those of a model do."""
    return random(tokens, columns, seed=1) @ (torch.eye(columns) + 0.3 * random(columns, columns, seed=2))


def gptq(form: Int) -> Int:
    return form.replace(method="gptq")


@pytest.mark.parametrize("form", [Int(bits=4, group=32), Int(bits=4, group=96), Int(bits=8, group=64)], ids=Int.text)
def test_feedback_makes_the_output_better(form: Int) -> None:
    weight, x = random(67, 192), inputs(192)
    error = {}
    for name, gram in (("rtn", None), ("gptq", x.T @ x / len(x))):
        found = PACKING.unpack(form, PACKING.pack(gptq(form), weight, gram))
        error[name] = (x @ (found - weight).T).norm()
    assert error["gptq"] < 0.8 * error["rtn"]


def best_scale(weights: list[float], sizes: list[float], most: int) -> float:
    """Of the scales that are tried, the first with the least error."""

    def error(scale: float) -> float:
        rounded = [max(-most, min(most, round(w / scale))) * scale for w in weights]
        return sum(size * (w - r) ** 2 for w, r, size in zip(weights, rounded, sizes, strict=True))

    tried = [naive_scale([relative * w for w in weights], most) for relative in TRIED]
    return min(tried, key=error)


def test_feedback_between_inputs_that_have_nothing_in_common_is_none() -> None:
    form, weight = Int(bits=4, group=32), random(5, 192)
    sizes = random(192, seed=3).square()
    integers, scales = PACKING.integers(form, PACKING.pack(gptq(form), weight, sizes.diag()))
    damped = (sizes + 0.01 * sizes.mean()).tolist()
    for row, found, whole in zip(weight.tolist(), scales.tolist(), integers.tolist(), strict=True):
        for group, start in enumerate(range(0, 192, 32)):
            part = row[start : start + 32]
            scale = best_scale(part, damped[start : start + 32], form.most)
            assert found[group] == scale
            assert whole[start : start + 32] == [max(-form.most, min(form.most, round(w / scale))) for w in part]


@pytest.mark.parametrize("group", [32, 96, 192])
def test_feedback_is_that_of_the_paper(group: int) -> None:
    """Column by column: the best change of the columns that are left, with the inverse of their own Gram matrix."""
    form, weight, x = Int(bits=4, group=group), random(5, 192), inputs(192)
    gram = (x.T @ x / len(x)).double()
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(192, dtype=torch.float64)
    left, expected = weight.double().clone(), torch.zeros(5, 192)
    for column in range(192):
        if column % group == 0:
            groups = left[:, column : column + group]
            sizes = damped.diagonal()[column : column + group].tolist()
            scale = torch.tensor([best_scale(row, sizes, form.most) for row in groups.tolist()], dtype=torch.float64)
        whole = (left[:, column] / scale).round().clamp(-form.most, form.most)
        expected[:, column] = whole.float()
        inverse = torch.linalg.inv(damped[column:, column:])
        error = (left[:, column] - whole * scale) / inverse[0, 0]
        left[:, column:] -= error.unsqueeze(1) * inverse[0]
    integers, _ = PACKING.integers(form, PACKING.pack(gptq(form), weight, gram.float()))
    # Computed in float32, a number between two integers may fall on the other side.
    assert (integers != expected).float().mean() < 0.01


def test_an_input_that_is_always_zero_changes_nothing() -> None:
    form, weight, x = Int(bits=4, group=32), random(5, 64), inputs(64)
    x[:, 7] = 0
    found = PACKING.unpack(form, PACKING.pack(gptq(form), weight, x.T @ x / len(x)))
    assert found.isfinite().all()


def test_inputs_whose_gram_matrix_has_no_inverse_are_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be inverted"):
        PACKING.pack(gptq(Int(bits=4, group=32)), random(5, 64), -torch.eye(64))
