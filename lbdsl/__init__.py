"""lbdsl: compress language models by a recipe.

What the main verbs of the command line do:

    check_recipe(text)           diagnostics of a recipe
    check_file(path)             the same of a file, with what it includes
    fix_recipe(text)             the text with its fixes applied
    format_text(text)            its canonical text
    convert_recipe(text, source, to) a recipe between its language, JSON and YAML
    starting_recipe(model)       a first recipe for a model
    inspect_model(model)         shapes and sizes, from headers
    measure_model(recipe, model) the scores a recipe needs
    plan_recipe(recipe, model)   what would be done, its cost and its damage
    change_layer(planned, 7, "keep") the same plan but for one layer
    planned.save(path)           the plan as a file; load_plan(path) reads it
    apply_plan(planned)          change, heal, judge and save
    apply_saved_plan(path)       do exactly a saved plan
    load(folder)                 the model and the tokenizer of an artifact
    OpenModel(model)             a model as it is before: `base`, `tokenizer`
    evaluate_artifact(folder)    quality of an artifact against its base
    evaluate_model(model)        what a base itself is worth on texts and tasks
    bench_artifact(folder)       its speed, memory and cache beside its base's
    calibrate_model(model)       what a model's parts cost in an engine, to predict that
    export_artifact(folder, kind) an artifact in a format that an engine reads
    verify_artifact(folder)      whether it is as it was saved, and as good as its record says
    push_artifact(folder, name)  an artifact on the Hugging Face hub

Models are folders, .gguf files or hub ids, as text or Path; `set_params` takes numbers as well as text; `progress` takes a
function `f(stage, done, total, note)`. Results have a short repr, and draw themselves in a notebook.

Importing lbdsl loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

from lbdsl.version import VERSION as __version__

_EXPORTS = {
    "Diagnostic": "lbdsl.core.diagnostic",
    "LbdslError": "lbdsl.core.diagnostic",
    "RunOptions": "lbdsl.session.options",
    "OpenModel": "lbdsl.session.model",
    "check_file": "lbdsl.api.checking",
    "check_recipe": "lbdsl.api.checking",
    "fix_recipe": "lbdsl.api.fixing",
    "convert_recipe": "lbdsl.api.converting",
    "format_text": "lbdsl.language.format",
    "inspect_model": "lbdsl.api.inspecting",
    "measure_model": "lbdsl.api.planning",
    "starting_recipe": "lbdsl.api.starting",
    "plan_recipe": "lbdsl.api.planning",
    "apply_plan": "lbdsl.api.applying",
    "apply_saved_plan": "lbdsl.api.applying",
    "ApplyOptions": "lbdsl.api.applying",
    "change_layer": "lbdsl.api.by_hand",
    "save_plan": "lbdsl.plan.file",
    "load_plan": "lbdsl.api.planning",
    "load": "lbdsl.api.loading",
    "evaluate_artifact": "lbdsl.api.evaluating",
    "evaluate_model": "lbdsl.api.evaluating",
    "bench_artifact": "lbdsl.api.benching",
    "calibrate_model": "lbdsl.api.calibrating",
    "InTransformers": "lbdsl.bench.engine_transformers",
    "InLlamaCpp": "lbdsl.bench.engine_llamacpp",
    "AtUrls": "lbdsl.bench.engine_url",
    "Requests": "lbdsl.bench.engine_vllm",
    "EnginePython": "lbdsl.bench.engine",
    "export_artifact": "lbdsl.session.exporting",
    "push_artifact": "lbdsl.api.pushing",
    "verify_artifact": "lbdsl.api.verifying",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lbdsl' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
