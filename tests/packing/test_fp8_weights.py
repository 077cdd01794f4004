"""8-bit floats and scales against naive references and against compressed-tensors, and inputs that are rounded to them."""

from __future__ import annotations

import itertools

import pytest
import torch

from lbdsl.model.hybrid.lbdsl_part_fp8 import PART
from lbdsl.packing import packings
from lbdsl.parts import TensorShape
from lbdsl.parts.fp8_weights import Fp8
from tests.numbers_e4m3 import nearest

PACKING, STORED = packings()["fp8"], Fp8()
SHAPES = [(1, 192), (5, 97), (1025, 31)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shape", "dtype"), list(itertools.product(SHAPES, DTYPES)))
def test_numbers_and_scales_are_those_of_the_definition(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = (0.05 * random(*shape)).to(dtype)
    tensors = PACKING.pack(STORED, weight)
    scales = (weight.float().abs().amax(-1, keepdim=True) / 448).to(dtype).clamp(min=torch.finfo(dtype).tiny)
    assert torch.equal(tensors["weight_scale"], scales)
    # The quotient in float32: its rounding decides only where it lies between two numbers.
    expected = nearest((weight.float() / scales.float()).clamp(-448, 448))
    assert torch.equal(tensors["weight"].double(), expected)
    exact = tensors["weight"].double() * scales.double()
    assert torch.equal(PACKING.unpack(STORED, tensors), exact.to(dtype))
    relative = (exact - weight.double()).norm() / weight.double().norm()
    assert 0.01 < relative < 0.04  # Half a step of 3 bits is at most a sixteenth.


def test_what_lies_beyond_saturates_and_zeros_stay() -> None:
    # In bfloat16 a scale is often rounded down; its row's largest weight is then more than 448 scales.
    weight = random(4000, 8, seed=1).bfloat16()
    tensors = PACKING.pack(STORED, weight)
    beyond = weight.float() / tensors["weight_scale"].float()
    assert (beyond.abs() > 448).any()
    assert torch.isfinite(tensors["weight"].float()).all()
    assert tensors["weight"].float().abs().max() == 448
    zeros = PACKING.pack(STORED, torch.zeros(3, 64))
    assert not PACKING.unpack(STORED, zeros).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_compressed_tensors_reads_the_same_matrix(dtype: torch.dtype) -> None:
    from compressed_tensors.compressors.naive_quantized import FloatQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    tensors = PACKING.pack(STORED, random(65, 96).to(dtype))
    scheme = QuantizationScheme(targets=["Linear"], **STORED.scheme)
    theirs = FloatQuantizationCompressor.decompress(dict(tensors), scheme)["weight"]
    assert torch.equal(theirs, PACKING.unpack(STORED, tensors))


def test_tensors_are_the_planned_ones() -> None:
    class Model:
        dtype = "bfloat16"

    planned = STORED.saved_tensors(TensorShape("mlp.up_proj.weight", (5, 97)), Model())  # type: ignore[arg-type]
    tensors = PACKING.pack(STORED, random(5, 97).bfloat16())
    found = {name: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in tensors.items()}
    assert found == planned


def test_inputs_are_rounded_as_compressed_tensors_rounds_them() -> None:
    from compressed_tensors.quantization import QuantizationScheme, QuantizationStatus
    from compressed_tensors.quantization.lifecycle.forward import forward_quantize

    linear, inputs = torch.nn.Linear(96, 7, bias=False), 3 * random(2, 5, 96)
    inputs[0, 1] = 0
    inputs.requires_grad_()
    scheme = QuantizationScheme(targets=["Linear"], **STORED.scheme)
    linear.quantization_status = QuantizationStatus.COMPRESSED
    theirs = forward_quantize(linear, inputs.detach(), "input", scheme.input_activations)
    del linear.quantization_status
    expected = torch.nn.functional.linear(theirs, linear.weight)
    wrapped = PART.wrap(linear, {"activations": 8})
    found = wrapped(inputs)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert torch.allclose(inputs.grad, linear.weight.sum(0).expand_as(inputs))
    plain = torch.nn.Linear(96, 7)
    assert type(PART.wrap(plain, {"activations": 16})) is torch.nn.Linear
