"""Rotary embeddings in GGUF files: the names that llama.cpp's own conversion writes, and divisors worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from gguf import GGUFReader, GGUFValueType, Keys, RopeScalingType
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lbdsl.export.gguf_rope import frequency_divisors, rope_of, scaling_fields
from lbdsl.export.gguf_tensors import OutTensor
from lbdsl.export.gguf_writer import write_gguf
from lbdsl.families import FAMILIES

LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
QWEN3 = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
MINISTRAL3 = {**QWEN3, "factor": 16.0, "original_max_position_embeddings": 16384, "mscale": 1.0, "mscale_all_dim": 1.0}
YARN_KEYS = (Keys.Rope.SCALING_TYPE, Keys.Rope.SCALING_FACTOR, Keys.Rope.SCALING_ORIG_CTX_LEN)
SCALINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({"rope_type": "default"}, {Keys.Rope.SCALING_TYPE: RopeScalingType.NONE.value}),
    "linear": (
        {"rope_type": "linear", "factor": 8.0},
        {Keys.Rope.SCALING_TYPE: RopeScalingType.LINEAR.value, Keys.Rope.SCALING_FACTOR: 8.0},
    ),
    "llama3": (LLAMA31, {Keys.Rope.SCALING_TYPE: RopeScalingType.NONE.value}),
    "yarn": (QWEN3, dict(zip(YARN_KEYS, (RopeScalingType.YARN.value, 4.0, 32768), strict=True))),
    "yarn with mscale": (
        MINISTRAL3,
        {
            **dict(zip(YARN_KEYS, (RopeScalingType.YARN.value, 16.0, 16384), strict=True)),
            Keys.Rope.SCALING_YARN_LOG_MUL: 1.0,
        },
    ),
}
TYPES = {str: GGUFValueType.STRING, float: GGUFValueType.FLOAT32, int: GGUFValueType.UINT32}


LLAMA = FAMILIES["llama"]


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaling_is_written_in_the_fields_that_llamacpp_reads(kind: str, tmp_path) -> None:
    """By the names and types of gguf, the package of llama.cpp's conversion."""
    config, wanted = SCALINGS[kind]
    fields = scaling_fields(rope_of(LLAMA, {"rope_parameters": config}))
    named = {"general.architecture": "llama", **{f"llama.{name}": value for name, value in fields.items()}}
    write_gguf(tmp_path / "x.gguf", named, [OutTensor("zeros", (32, 32))], tmp_path)
    found = {name: field for name, field in GGUFReader(tmp_path / "x.gguf").fields.items() if ".rope." in name}
    assert {name: field.contents() for name, field in found.items()} == {
        key.format(arch="llama"): value for key, value in wanted.items()
    }
    for key, value in wanted.items():
        assert found[key.format(arch="llama")].types == [TYPES[type(value)]]


def test_divisors_of_llama3_by_hand() -> None:
    """Frequencies of 1, 1/2, 1/4 and 1/8, which turn 16, 8, 4 and 2 times in the original length: the first is beyond
    `high_freq_factor` and stays, the last under `low_freq_factor` and is divided; 5/8 and 1/8 of the others stay."""
    config = {
        **LLAMA31,
        "rope_theta": 16.0,
        "factor": 4.0,
        "low_freq_factor": 3.0,
        "high_freq_factor": 11.0,
        "original_max_position_embeddings": 16 * 2 * math.pi,
    }
    divisors = frequency_divisors(rope_of(LLAMA, {"rope_parameters": config}), head_dim=8)
    by_hand = [1.0, 1 / (3 / 8 / 4 + 5 / 8), 1 / (7 / 8 / 4 + 1 / 8), 4.0]
    assert divisors == pytest.approx(by_hand, rel=1e-12)


def test_divisors_of_llama31_are_transformers() -> None:
    """Llama 3.1's own: heads of 128, of which transformers computes the frequencies in float32."""
    divisors = frequency_divisors(rope_of(LLAMA, {"rope_parameters": LLAMA31}), head_dim=128)
    config = SimpleNamespace(rope_parameters=LLAMA31, head_dim=128, standardize_rope_params=lambda: None)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = [LLAMA31["rope_theta"] ** (-2 * pair / 128) for pair in range(64)]
    assert divisors == pytest.approx([own / new for own, new in zip(plain, scaled.tolist(), strict=True)], rel=1e-5)
    assert (divisors.count(1.0), divisors.count(8.0)) == (29, 29)


def test_other_scalings_have_no_divisors() -> None:
    assert all(frequency_divisors(rope_of(LLAMA, {"rope_parameters": one}), 8) is None for one in (QWEN3, {}))
