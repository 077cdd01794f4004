"""4-bit floats and their scales against a naive reference and against compressed-tensors."""

from __future__ import annotations

import math

import pytest
import torch

from lbdsl.model.hybrid.lbdsl_part_nvfp4 import PART
from lbdsl.packing import largest_of, packed, unpacked
from lbdsl.parts import TensorShape
from lbdsl.parts.nvfp4_weights import Nvfp4
from tests.numbers_e4m3 import nearest

STORED, WITH_INPUTS = Nvfp4(), Nvfp4(activations=4)
SHAPES = [(1, 16), (5, 96), (1025, 32)]
HALVES = {0.25: 0.0, 0.75: 1.0, 1.25: 1.0, 1.75: 2.0, 2.5: 2.0, 3.5: 4.0, 5.0: 4.0}
"""What lies between two numbers goes to that with the even last bit."""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive(weight: torch.Tensor, largest: float, beyond: float = math.inf, multiplied: bool = False) -> torch.Tensor:
    """Group by group, one number after the other; `multiplied` with reciprocals instead of divided."""
    overall = torch.tensor(2688 / largest, dtype=torch.float32)
    rows = []
    for row in weight.float():
        found = []
        for group in row.split(16):
            most = group.abs().max() * torch.tensor(1 / 6) if multiplied else group.abs().max() / 6
            scale = max(nearest((most * overall).clamp(max=beyond).view(1)).item(), 2.0**-9)
            step = torch.tensor(scale, dtype=torch.float32) / overall
            for value in group:
                size = (value.abs() * (1 / step) if multiplied else value.abs() / step).item()
                to = HALVES.get(size)
                if to is None:
                    to = min((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), key=lambda number, size=size: abs(number - size))
                found.append((-to if value < 0 else to) * step.item())
        rows.append(found)
    return torch.tensor(rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_numbers_are_those_of_the_definition(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random(*shape).to(dtype)
    for largest in (None, 2 * weight.abs().max().item()):
        tensors = packed(STORED, weight, largest=largest)
        assert torch.equal(unpacked(STORED, tensors), naive(weight, largest or weight.abs().max().item()))


def test_ties_go_to_even_and_zeros_stay() -> None:
    # The largest is 6 times a scale that is exact: 448 / g.
    weight = torch.tensor([[6.0, *HALVES, *(-half for half in HALVES), 0.0]])
    found = unpacked(STORED, packed(STORED, weight))
    assert found.tolist() == [[6.0, *HALVES.values(), *(-value for value in HALVES.values()), 0.0]]
    assert not unpacked(STORED, packed(STORED, torch.zeros(3, 32))).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_compressed_tensors_reads_the_same_matrix(shape: tuple[int, int]) -> None:
    from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
    from compressed_tensors.quantization import QuantizationScheme

    tensors = packed(STORED, random(*shape).bfloat16())
    scheme = QuantizationScheme(targets=["Linear"], **STORED.scheme)
    theirs = NVFP4PackedCompressor.decompress(dict(tensors), scheme)["weight"]
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(theirs, unpacked(STORED, tensors).bfloat16())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", [STORED, WITH_INPUTS])
def test_tensors_are_the_planned_ones(stored: Nvfp4, shape: tuple[int, int]) -> None:
    planned = stored.saved_tensors(TensorShape("mlp.up_proj.weight", shape), None)  # type: ignore[arg-type]
    inputs = torch.ones(1) if stored.statistic(shape[1]) else None
    found = {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in packed(stored, random(*shape), inputs).items()
    }
    assert found == planned


def linear_of(weight: torch.Tensor, scale: float = 0.0) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight.data.copy_(weight)
    wrapped = PART.wrap(linear, {"activations": 4})
    wrapped.input_global_scale = scale
    return wrapped


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_inputs_are_rounded_as_the_definition_says(dtype: torch.dtype) -> None:
    """By a scale of the text, by their own, beyond it, far below it, and zeros; gradients pass."""
    inputs, largest = 20 * random(2, 5, 96).to(dtype), torch.tensor([1.7])
    inputs[0, 1], inputs[1, 2], inputs[1, 3] = 0, inputs[1, 2] * 1000, inputs[1, 3] * 1e-5
    inputs[1, 4, :16] = torch.tensor([6.0, *HALVES, *(-half for half in HALVES), 0.0])
    scale = packed(WITH_INPUTS, torch.ones(1, 96), largest)["input_global_scale"].item()
    assert scale == 1024
    assert packed(WITH_INPUTS, torch.ones(1, 96), torch.zeros(1))["input_global_scale"].isfinite()
    for given, overall in ((scale, scale), (0.0, 2.0 ** math.floor(math.log2(2048 / inputs.abs().max().item())))):
        rows = inputs.flatten(0, 1)
        # 2688 / g is the largest of which `naive` would make this g.
        expected = naive(rows, 2688 / overall, beyond=448.0, multiplied=True).to(dtype)
        seen = inputs.clone().requires_grad_()
        found = linear_of(torch.eye(96, dtype=dtype), given)(seen)
        assert torch.equal(found.flatten(0, 1), expected)
        found.sum().backward()
        assert torch.equal(seen.grad, torch.ones_like(inputs))


def test_inputs_are_rounded_as_compressed_tensors_rounds_them() -> None:
    """Which divides, so that what lies in the middle of two numbers may differ: none of these 57,600 does."""
    from compressed_tensors.quantization import QuantizationScheme, QuantizationStatus
    from compressed_tensors.quantization.lifecycle.forward import forward_quantize

    inputs, linear = 3 * random(2, 300, 96), linear_of(torch.eye(96), 128.0)
    scheme = QuantizationScheme(targets=["Linear"], **WITH_INPUTS.scheme)
    ours = linear(inputs)
    linear.quantization_scheme, linear.quantization_status = scheme, QuantizationStatus.COMPRESSED
    theirs = forward_quantize(linear, inputs, "input", scheme.input_activations)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, inputs)


def test_matrices_of_a_parent_share_their_largest() -> None:
    weights = {"self_attn.q_proj": 1.0, "self_attn.o_proj": -3.0, "mlp.up_proj": 2.0}
    found = largest_of((name, STORED, lambda most=most: torch.full((2, 2), most)) for name, most in weights.items())
    assert found == {("self_attn", STORED): 3.0, ("mlp", STORED): 2.0}
