"""What the recipes for larger models take: costs of base and plan, memory and hours, from configurations alone.

`lbdsl plan --estimate` reads headers of weights that are as the configuration in benchmarks/configurations says; nothing is
measured. `params` in billions, `weights` and `kv` (of 8Ki tokens) in GiB, `after` as shares of these: a ranking takes
layers that are alike, so it does not matter which. `served by`: the exports. `holds`: what a device holds while it heals,
of the ways that fit the one that takes the least of its memory, or `no`; `GiB` of that on each device; `minutes` of
measuring, healing and judging together.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.table import HOME, ROOT, Row, Table, once
from benchmarks.tables.judged import lbdsl
from lbdsl.cost.facts import ModelFacts
from lbdsl.export.base import subject_of
from lbdsl.model.inspect import inspect_model, weight_bytes
from lbdsl.model.layout import layout_of
from lbdsl.model.source import resolve_source
from lbdsl.model.tensor_names import model_config
from lbdsl.recipe.load import recipe_from_text
from lbdsl.session.targets import base_config, check_target
from lbdsl.solve.case import Case
from lbdsl.solve.select import select

MODELS = {
    "llama-3.1-8b": "dense-8b",
    "qwen3-8b": "dense-8b",
    "ministral-3-8b": "dense-8b",
    "gemma-3-4b": "gemma-3",
    "qwen3-30b-a3b": "qwen3-30b-a3b",
}
CONTEXT = 8 * 1024
DEVICES = "RTX4090", "H100", "8xH100"
RANKED = re.compile(r"^lowest (\d+)% by \S+.*?\)\) (?=swa)", re.MULTILINE)


def headers(name: str, folder: Path) -> None:
    """A checkpoint of bfloat16 tensors without data."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((HOME / "configurations" / f"{name}.json").read_text())
    facts = layout_of(model_config(folder)).facts("bfloat16")
    shapes = {tensor.name: tensor.shape for tensor in facts.outside}
    for layer, spec in enumerate(facts.layer_specs):
        prefix = facts.family_data.layer_prefix.format(layer)
        shapes |= {prefix + tensor.name: tensor.shape for tensor in spec.tensors(facts)}
    header, end = {}, 0
    for tensor, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def changed(recipe: Path, facts: ModelFacts) -> ModelFacts:
    """The model that the recipe makes, if its ranking took the first layers."""
    text = RANKED.sub(lambda found: f"layers first {round(facts.layers * int(found[1]) / 100)} ", recipe.read_text())
    specs = select(Case(recipe_from_text(text).unwrap(), facts), {}).unwrap().specs
    return replace(facts, layer_specs=specs)


def row(model: str, recipe: str, work: Path) -> dict[str, Any]:
    folder = once(work / model, partial(headers, model))
    path = ROOT / "recipes" / f"{recipe}.lbr"
    base = inspect_model(resolve_source(str(folder))).unwrap()
    after = changed(path, base)
    subject = subject_of(base_config(resolve_source(str(folder)), base), base, after.layer_specs)
    forms = {
        answer.kind for engine in ("vllm", "llamacpp") for answer in check_target(subject, engine).answers if answer.can
    }
    found: dict[str, Any] = {"recipe": recipe, "params": base.params / 1e9, "weights": weight_bytes(base) / 2**30}
    found |= {"weights after": weight_bytes(after) / weight_bytes(base)}
    found |= {"kv": base.kv_bytes(CONTEXT) / 2**30, "kv after": after.kv_bytes(CONTEXT) / base.kv_bytes(CONTEXT)}
    found["served by"] = ", ".join(sorted(forms)) or "transformers"
    for device in DEVICES:
        done = json.loads(lbdsl("plan", str(path), str(folder), "--estimate", device, "--json").stdout)
        ways = {name: way for name, way in done["ways"].items() if way["fits"]}
        least = {name: way["device_bytes"] for name, way in (ways or done["ways"]).items()}
        found[f"{device} holds"] = min(ways, key=least.__getitem__) if ways else "no"
        found[f"{device} GiB"] = min(least.values()) / 2**30
        found |= {f"{device} minutes": 60 * sum(done["hours"].values())} if ways else {}
    return found


TABLE = Table(
    title="what the recipes for larger models take, by configurations alone",
    columns={
        "recipe": "",
        "params": ".1f",
        "weights": ".1f",
        "weights after": ".0%",
        "kv": ".2f",
        "kv after": ".0%",
        "served by": "",
    }
    | {
        f"{device} {what}": form for device in DEVICES for what, form in (("holds", ""), ("GiB", ".0f"), ("minutes", ".0f"))
    },
    rows=[Row(model, partial(row, model, recipe)) for model, recipe in MODELS.items()],
    measures=(
        *("lbdsl/cost", "lbdsl/plan", "lbdsl/parts", "lbdsl/families", "lbdsl/export", "lbdsl/api/estimating.py"),
        *(
            "recipes",
            "lbdsl/recipe",
            "lbdsl/solve",
            "lbdsl/session/targets.py",
            "lbdsl/actions",
            "benchmarks/configurations",
        ),
    ),
)
