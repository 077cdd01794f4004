"""Choose the factor of a plan's patches, which are fitted one by one (see `lbdsl.measure.patches`), by the whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lbdsl.actions.patches import FULL, Patch, SubBlock, patches_of, refactored, with_factor
from lbdsl.core.digest import digest_of
from lbdsl.core.measurement import Request
from lbdsl.cost.facts import ModelFacts
from lbdsl.measure.flow import Changes
from lbdsl.measure.patches import kept_patch
from lbdsl.measure.runs import Measuring, Run
from lbdsl.measure.statistics import keep_value, value_digest
from lbdsl.measure.store import MODEL_LAYER
from lbdsl.plan.made_from import PatchCheck

FACTORS = ("0", "0.25", "0.5", "0.75", FULL)
"""Each patch alone is the best for its sub-block; together they can be too much. With 0 there is none."""


def scale_patches(
    check: Measuring, facts: ModelFacts, changes: Changes, folder: Path, fingerprint: str
) -> tuple[tuple[SubBlock, ...], PatchCheck]:
    """Choose one of `FACTORS` for all patches of a plan, which are fitted, and save the patches multiplied by it: the
    smallest whose divergence from the base on the text of `check` is within one standard error of the least, since other
    text is further away still (the rule is that of Breiman et al., Classification and Regression Trees, 1984). Returns the
    dropped sub-blocks that get no patch, because it does not help, and what the others bring. The patches are in `folder`
    under `fingerprint`.
    """
    patches = patches_of(facts, changes)
    fitted = [value_digest(_fitted(folder, fingerprint, patch)) for patch in patches]
    key = digest_of([[[i, change.to_json()] for i, change in sorted(changes.items())], fitted])
    asked = {factor: Request("kl", f"patches {key} times {factor}", MODEL_LAYER) for factor in FACTORS}
    runs = [Run(with_factor(changes, factor), (request,)) for factor, request in asked.items()]

    def scaled(layer: int) -> Mapping[str, Tensor]:
        values = {
            refactored(patch.stat, factor).text: _times(_fitted(folder, fingerprint, patch), factor)
            for patch in patches
            for factor in FACTORS
            if patch.at.layer == layer
        }
        return {**check.statistics(layer), **values}

    found = replace(check, statistics=scaled).means(runs)
    least = min((found[request] for request in asked.values()), key=lambda kl: kl.value)
    # NaN, the error of a single sequence, is no reason to prefer a smaller factor.
    most = least.value + (least.stderr if math.isfinite(least.stderr) else 0.0)
    # A loss that is NaN is nowhere the least, and refused with the plan's own.
    best = next((factor for factor in FACTORS if found[asked[factor]].value <= most), FACTORS[0])
    values = {patch: _times(_fitted(folder, fingerprint, patch), best) for patch in patches}
    for patch, value in values.items():
        # Another plan with the same patch may have taken another factor.
        there = kept_patch(folder, fingerprint, patch)
        if there is None or not torch.equal(there, value):
            keep_value(folder, fingerprint, patch.at.layer, patch.stat, value)
    useless = (patch for patch, value in values.items() if torch.equal(value, torch.eye(len(value))))
    brought = PatchCheck(factor=float(best), kl=found[asked[best]].value, kl_without=found[asked[FACTORS[0]]].value)
    return tuple(place for patch in useless for place in patch.dropped), brought


def _fitted(folder: Path, fingerprint: str, patch: Patch) -> Tensor:
    """A patch as it was fitted, times 1."""
    value = kept_patch(folder, fingerprint, patch._replace(stat=refactored(patch.stat, FULL)))
    assert value is not None, "patches are fitted before they are scaled"
    return value


def _times(value: Tensor, factor: str) -> Tensor:
    eye = torch.eye(len(value))
    return eye + float(factor) * (value - eye)
