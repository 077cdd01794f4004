"""The marks of a layer in a plan's picture."""

from __future__ import annotations

import pytest

from lbdsl.layer.difference import marks_of
from tests.plan_cases import llama_facts

MLP, ATTENTION = "mlp.up_proj", "self_attn.q_proj"


@pytest.mark.parametrize(
    ("bits", "sign", "legend"),
    [
        ({}, ".", ""),
        ({MLP: 4}, "4", "digits: bits of a weight"),
        ({MLP: 8, ATTENTION: 8}, "8", "digits: bits of a weight"),
        ({MLP: 4, ATTENTION: 8}, "m", "mixed"),
        ({MLP: 8, ATTENTION: 4}, "m", "mixed"),
    ],
)
def test_bits(bits: dict[str, int], sign: str, legend: str) -> None:
    base = llama_facts(layers=1).layer_specs[0]
    stored = {module: {"kind": "int", "bits": each, "group": 32} for module, each in bits.items()}
    mark = marks_of(base, base.replace(weights=stored))["bits"]
    assert (mark.sign, mark.legend) == (sign, legend)
