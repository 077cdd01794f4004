"""4-bit floats and their scales against a naive reference and against compressed-tensors."""

from __future__ import annotations

import pytest
import torch

from lbdsl.packing import largest_of, packed, packings, unpacked
from lbdsl.parts import TensorShape
from lbdsl.parts.nvfp4_weights import Nvfp4
from tests.numbers_e4m3 import nearest

STORED = Nvfp4()
SHAPES = [(1, 16), (5, 96), (1025, 32)]
HALVES = {0.25: 0.0, 0.75: 1.0, 1.25: 1.0, 1.75: 2.0, 2.5: 2.0, 3.5: 4.0, 5.0: 4.0}
"""What lies between two numbers goes to that with the even last bit."""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive(weight: torch.Tensor, largest: float) -> torch.Tensor:
    """Group by group, one number after the other."""
    overall = torch.tensor(2688 / largest, dtype=torch.float32)
    rows = []
    for row in weight.float():
        found = []
        for group in row.split(16):
            scale = max(nearest((group.abs().max() / 6 * overall).view(1)).item(), 2.0**-9)
            step = torch.tensor(scale, dtype=torch.float32) / overall
            for value in group:
                size = (value.abs() / step).item()
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
def test_tensors_are_the_planned_ones(shape: tuple[int, int]) -> None:
    planned = STORED.saved_tensors(TensorShape("mlp.up_proj.weight", shape), None)  # type: ignore[arg-type]
    found = {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in packings()["nvfp4"].pack(STORED, random(*shape)).items()
    }
    assert found == planned


def test_matrices_of_a_parent_share_their_largest() -> None:
    weights = {"self_attn.q_proj": 1.0, "self_attn.o_proj": -3.0, "mlp.up_proj": 2.0}
    found = largest_of((name, STORED, lambda most=most: torch.full((2, 2), most)) for name, most in weights.items())
    assert found == {("self_attn", STORED): 3.0, ("mlp", STORED): 2.0}
