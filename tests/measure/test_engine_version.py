"""Scores of tiny models, as this `ENGINE_VERSION` gave them when they were written: other numbers need another version.

Kept scores are found by that version, so that a change without it would mix old numbers with new ones. Where a number has
changed on purpose, increase `ENGINE_VERSION`; then `LBDSL_UPDATE_GOLDEN=1 pytest tests/measure/test_engine_version.py` adds
the numbers of that version. Those that are written are never written over: those of a new action are added to them.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lbdsl.actions import actions
from lbdsl.api.planning import measure_model, plan_recipe
from lbdsl.measure.fingerprint import ENGINE_VERSION
from lbdsl.session.options import RunOptions
from tests.family_cases import family_base
from tests.tiny_model import byte_tokenizer

FILE = Path(__file__).with_name("engine_numbers.json")
WORDS = ("one", "two", "three", "four", "five", "six", "seven")
TEXT = "\n\n".join(" ".join(WORDS[(n * n + n * line + line // 3) % 7] for n in range(60)) for line in range(40))
CALLS = [re.sub("window=[0-9]+", "window=5", call) for cls in actions().values() for call in (cls.example, *cls.examples)]
# 4-bit floats are of bfloat16 alone, and models do not differ from themselves.
OTHERS = [call for call in CALLS if not re.search("nvfp4|keep|experts", call)]
MODELS: dict[str, tuple[str, list[str], str]] = {
    "dense": ("llama", OTHERS, "where nll(drop) < -9 drop\nwhere influence < -1 drop\nwhere influence(block) < -1 drop\n"),
    "experts": ("qwen3_moe", [call for call in CALLS if "experts" in call], ""),
}
JOINT = {"dense": "layers 1 swa(window=5, sinks=2)\nlayers 2 drop\n", "experts": "layers 1-2 experts(n=50%)\n"}
CLOSE, COARSE = 1e-4, {"activations": 5e-2, r"cache|bits=8|fp8": 5e-3}
"""Relative. With torch's, MKL's and oneDNN's kernels for other CPUs (none, AVX2, AVX-512) these numbers move by up to 6e-6;
where a value lies between two of 8 bits it may go to the other, which moves the small scores of 8-bit weights and caches by
up to 4e-4, those of 8-bit inputs by up to 7e-3."""


def model_folder(place: Path, family: str) -> Path:
    """Weights by their names alone, whatever order a version of transformers makes them in."""
    sizes = {"attention_bias": False, "moe_intermediate_size": 64} if family == "qwen3_moe" else {}
    model = family_base(family, vocab_size=260, intermediate_size=64, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            chance = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            drawn = torch.randn(parameter.shape, generator=chance)
            parameter.copy_(0.3 * drawn if parameter.dim() > 1 else 1 + 0.2 * drawn)
    model.save_pretrained(place / family)
    byte_tokenizer().save_pretrained(place / family)
    return place / family


def numbers_of(name: str, place: Path, cache: Path) -> dict[str, list[float]]:
    """By metric and action the scores of all layers, and the losses of a plan that changes several."""
    family, calls, more = MODELS[name]
    (place / "text.txt").write_text(TEXT)
    rules = "".join(f"where kl({call}) < -1 {call}\n" for call in calls) + more + JOINT[name] + "else keep\n"
    recipe = place / "numbers.lbr"
    recipe.write_text('lbr 1\nmeasure { data = "text.txt"; tokens = 256; seq = 64 }\n' + rules)
    model, options = model_folder(place, family), RunOptions(cache_dir=cache, device="cpu", dtype="float32")
    scores = measure_model(recipe, model, options=options).scores
    found: dict[str, list[float]] = {}
    for request, score in sorted(scores.items(), key=lambda item: item[0].layer):
        found.setdefault(f"{name}: {request.metric}({request.action})", []).append(score.value)
    loss = plan_recipe(recipe, model, options=options).plan.loss
    return found | {f"{name}: whole plan": [loss.base_nll or 0.0, loss.values["nll"], loss.values["kl"]]}


def changed(kept: dict[str, list[float]], found: dict[str, list[float]]) -> list[str]:
    """The names of numbers that are others."""

    def allowed(name: str) -> float:
        return next((coarse for words, coarse in COARSE.items() if re.search(words, name)), CLOSE)

    return [name for name in kept if found.get(name) != pytest.approx(kept[name], rel=allowed(name), abs=0)]


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_this_engine_version(name: str, tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    found = numbers_of(name, tmp_path, new_cache(tmp_path / "cache"))
    versions = json.loads(FILE.read_text())
    kept = versions.setdefault(str(ENGINE_VERSION), {})
    other = changed({key: kept[key] for key in kept if key.startswith(f"{name}: ")}, found)
    assert not other, f"these come out otherwise: increase ENGINE_VERSION in lbdsl/measure/fingerprint.py. {other}"
    lacking = found.keys() - kept.keys()
    if os.environ.get("LBDSL_UPDATE_GOLDEN"):
        kept |= {key: [float(f"{value:.7g}") for value in found[key]] for key in sorted(lacking)}
        FILE.write_text(json.dumps(versions, indent=1) + "\n")
    else:
        assert not lacking, f"not in {FILE.name}: LBDSL_UPDATE_GOLDEN=1 adds them. {sorted(lacking)}"


def test_other_numbers_are_noticed() -> None:
    names = ("dense: kl(drop)", "dense: kl(quantize(bits=8))", "dense: kl(quantize(bits=8, activations=8))")
    kept = {name: [0.5, 0.25] for name in names}

    def moved(share: float) -> dict[str, list[float]]:
        return {name: [0.5, 0.25 * (1 + share)] for name in names}

    found = [changed(kept, moved(share)) for share in (1e-5, 1e-3, 1e-2, 0.1)]
    assert found == [[], [*names[:1]], [*names[:2]], [*names]]
    assert changed(kept, {}) == [*names]
