"""Profiles of machines and engines: their constants are fitted to measured cells, and kept in the cache folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lbdsl.core.cache import PROFILES
from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_of, short
from lbdsl.core.files import keep_in_cache, read_entry
from lbdsl.cost.facts import ModelFacts
from lbdsl.cost.profile import READ_AT_ONCE, Constants, Profile
from lbdsl.measure.machine import machine_identity

FORMAT_VERSION = 4


def fit(rows: Sequence[Constants], measured: Sequence[float]) -> tuple[Constants, float]:
    """Constants >= 0 for the least sum of squared relative errors, and the largest relative error. Features whose constant
    would be negative are left out, the most negative first. Raises LB355 if the rows do not decide the constants."""
    import numpy as np

    values = np.asarray(measured, dtype=np.float64)
    scaled = np.asarray(rows, dtype=np.float64) / values[:, None]
    size = np.linalg.norm(scaled, axis=0)
    scaled = scaled / np.where(size > 0, size, 1.0)
    left = [column for column in range(scaled.shape[1]) if size[column] > 0]
    if np.linalg.matrix_rank(scaled[:, left], tol=1e-6) < len(left):
        raise fail("LB355", "these cells do not tell what each part costs", help="time more contexts, or other lengths")
    found = np.zeros(scaled.shape[1])
    while left:
        part = np.linalg.lstsq(scaled[:, left], np.ones(len(values)), rcond=None)[0]
        if np.min(part) >= 0:
            found[left] = part
            break
        left.pop(int(np.argmin(part)))
    errors = np.abs(scaled @ found - 1)
    constants = found / np.where(size > 0, size, 1.0)
    return tuple(float(c) for c in constants), float(errors.max())


def profile_path(
    engine: str, facts: ModelFacts, device: Any, cache_dir: Path, machine: Mapping[str, Any] | None = None
) -> Path:
    """Where the profile of this engine on this machine is kept, for models of the shape of `facts`. `machine`: what the
    engine's own process says of its GPUs, and its arguments."""
    identity = machine_identity(device, facts.dtype) | dict(machine or {})
    if engine == "vllm" and identity["device"] == "cpu":
        # Not those of this process: the profile says how many its worker had.
        identity["threads"] = "the worker's"
    shaped = _shaped(engine, facts)
    key = short(digest_of({"machine": identity, **shaped}), 16)
    own = f"own-{short(digest_of(shaped), 16)}-" if machine else ""
    return PROFILES.path(cache_dir, f"profile-{engine}-{own}{key}.json")


def own_profiles(engine: str, facts: ModelFacts, cache_dir: Path) -> list[Profile]:
    """All profiles of this engine on GPUs or with arguments of its own, for models of the shape of `facts`: the last is
    first."""
    paths = cache_dir.glob(f"profile-{engine}-own-{short(digest_of(_shaped(engine, facts)), 16)}-*.json")
    newest = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    return [profile for profile in map(read_profile, newest) if profile is not None]


def _shaped(engine: str, facts: ModelFacts) -> dict[str, Any]:
    shape = [facts.hidden, facts.vocab, facts.dtype, [spec.to_json() for spec in facts.layer_specs]]
    made = {"format": FORMAT_VERSION, **({"at_once": READ_AT_ONCE[engine]} if engine in READ_AT_ONCE else {})}
    return {"engine": engine, "shape": shape, **made}


def read_profile(path: Path) -> Profile | None:
    """None if there is none, or it cannot be read."""
    try:
        return TypeAdapter(Profile).validate_json(read_entry(path))
    except (OSError, ValueError):
        return None


def write_profile(path: Path, profile: Profile) -> None:
    """Raises LB448 if the cache folder cannot be written."""
    keep_in_cache(path, json.dumps(asdict(profile), indent=1).encode())
