"""Read rotary embeddings from a configuration (old and new fields), and convert them for llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lbdsl.families import Family

_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """One kind of rotary embedding. `theta` is the base, `rest` the fields of its scaling, `partial` the fraction of a
    head's dimensions that is rotated."""

    theta: float
    kind: str
    partial: float
    rest: Mapping[str, Any]

    @property
    def factor(self) -> float:
        return float(self.rest.get("factor", 1.0))


def rope_of(family: Family, config: Mapping[str, Any], windowed: bool = False) -> Rope:
    """The rotary embeddings of full-attention layers, or of `windowed` layers in a family where they have their own.

    Reads `rope_parameters` (transformers 5, flat or by layer type) and the older `rope_theta`, `rope_local_base_freq` and
    `rope_scaling`.
    """
    theta, scaling = config.get("rope_theta", family.rope_theta), config.get("rope_scaling")
    kept = config.get("rope_parameters") or {}
    if not family.rope_by_layer_type:
        given = scaling or kept
    else:
        if windowed:
            # In the older fields, scaling applies only to full-attention layers.
            theta, scaling = config.get("rope_local_base_freq", family.local_rope_theta or theta), None
        of_type = kept.get("sliding_attention" if windowed else "full_attention")
        # Scaling of all layers is laid over what a type of layer has.
        given = {**(of_type if isinstance(of_type, Mapping) else kept), **(scaling or {})}
    kind = given.get("rope_type", given.get("type", "default"))
    partial = given.get("partial_rotary_factor", config.get("partial_rotary_factor", family.rotary_share))
    rest = {
        key: value
        for key, value in given.items()
        if value is not None and key not in ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    }
    if kind in ("llama3", "yarn"):
        original = "original_max_position_embeddings"
        rest.setdefault(original, config.get(original, config.get("max_position_embeddings")))
    return Rope(float(given.get("rope_theta", theta)), str(kind), float(partial or family.rotary_share), rest)


def rope_problem(rope: Rope, *, frequency_table: bool, mscale: bool, partial: bool) -> str | None:
    """Why llama.cpp cannot compute `rope`, or None if it can. `frequency_table`: the architecture reads rope_freqs;
    `mscale`: YaRN's mscale of 1; `partial`: rotary embeddings over a part of each head."""
    if rope.kind not in _TYPES:
        return f"rotary embeddings of type {rope.kind!r}"
    if rope.partial != 1.0 and not partial:
        return f"rotary embeddings over {rope.partial:.0%} of each head"
    if rope.kind == "llama3" and not frequency_table:
        return "llama3 scaling, which this architecture does not read"
    if rope.kind == "yarn":
        betas = float(rope.rest.get("beta_fast", 32)), float(rope.rest.get("beta_slow", 1))
        scales = rope.rest.get("mscale"), rope.rest.get("mscale_all_dim")
        known = scales == (None, None) or (mscale and scales == (1, 1))
        usual = 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 and scales[0] is None else 1.0
        scale = float(rope.rest.get("attention_factor", usual))
        if betas != (32, 1) or not math.isclose(scale, usual, rel_tol=1e-6) or rope.factor < 1:
            return "YaRN with settings of its own (betas or attention_factor)"
        if not known:
            return "YaRN with settings of its own (mscale)"
    return None


def rounded_yarn(rope: Rope, head_dim: int) -> str | None:
    """The pairs of a head between which YaRN goes from frequencies that stay to those that are divided, where they are not
    whole numbers; llama.cpp's are. None for others."""
    original = rope.rest.get("original_max_position_embeddings")
    if rope.kind != "yarn" or rope.rest.get("truncate", True) or not original:
        return None
    dims = int(head_dim * rope.partial)
    low, high = (dims * math.log(original / (2 * math.pi * turns)) / (2 * math.log(rope.theta)) for turns in (32, 1))
    exact, rounded = (
        (max(first, 0), min(last, dims - 1)) for first, last in ((low, high), (math.floor(low), math.ceil(high)))
    )
    if exact == rounded:
        return None
    here = f"{exact[0]:.2f} and {exact[1]:.2f} of {dims // 2} frequencies"
    return f"the bounds of YaRN, here {here}, to {rounded[0]} and {rounded[1]}"


def scaling_fields(rope: Rope) -> dict[str, Any]:
    """Metadata fields of the scaling; the keys are relative to the architecture's name."""
    if rope.kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.kind == "yarn":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.factor,
            "rope.scaling.original_context_length": int(rope.rest["original_max_position_embeddings"]),
            **({"rope.scaling.yarn_log_multiplier": 1.0} if "mscale" in rope.rest else {}),
        }
    return {"rope.scaling.type": "none"}


def frequency_divisors(rope: Rope, head_dim: int) -> list[float] | None:
    """llama3 scaling as llama.cpp's rope_freqs: the divisors of the head_dim / 2 frequencies; None for other types.

    Frequencies with wavelengths above original / low_freq_factor are divided by `factor`, those with wavelengths below
    original / high_freq_factor stay, and those in between are interpolated. Source: Llama 3.1's rope scaling.
    """
    if rope.kind != "llama3":
        return None
    low, high = float(rope.rest["low_freq_factor"]), float(rope.rest["high_freq_factor"])
    original = float(rope.rest["original_max_position_embeddings"])
    divisors = []
    for pair in range(head_dim // 2):
        turns = original * rope.theta ** (-2 * pair / head_dim) / (2 * math.pi)
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1.0 / ((1.0 - share) / rope.factor + share))
    return divisors
