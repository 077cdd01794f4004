"""`vllm`: the unchanged artifact, for vLLM with lbdsl's plug-in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from lbdsl.artifact.quantization import FIELD, with_cache
from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.printed import as_string
from lbdsl.core.progress import Report
from lbdsl.core.units import layers_text
from lbdsl.export.base import Exporter, Subject
from lbdsl.export.expresses import ANY, llama_layers
from lbdsl.export.files import link_files, write_json
from lbdsl.export.reasons import fused_alike, kernels, only_silu, vllm_cache
from lbdsl.families.engines import Lacks
from lbdsl.model.config_file import read_json_object
from lbdsl.vllm.served import served


class VllmPlugin(Exporter):
    """Give vLLM the artifact itself; lbdsl's plug-in provides the model classes.

    What: the artifact's own files, hard-linked; vLLM reads the layer specifications from `config.json`, in which a cache of
    8-bit floats is named, too.
    Engine: vLLM (tested with 0.32) and lbdsl: run `pip install --no-deps .` in a checkout of lbdsl, in vLLM's environment.
    The plug-in depends only on vLLM, which finds it through the entry point `vllm.general_plugins`.
    Limits: no sink tokens (vLLM's sinks are learned ones). Unlike DeciLM, it supports a first layer without attention,
    several windows, learned sinks, full heads beside windowed ones (one GPU), norms of queries and keys, and experts, of
    which each layer may have its own number; but no quantized ones.
    Source: vLLM, docs/design/plugin_system.md and vllm/model_executor/models.
    """

    kind = "vllm"
    engine = "vllm"
    plug_in = True
    where = "vLLM with lbdsl's plug-in"
    expresses = llama_layers(ANY, learned_sinks=ANY, full_heads=ANY, experts=ANY)

    @classmethod
    def layers(cls, subject: Subject) -> Sequence[int]:
        return range(len(subject.specs))

    @classmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        found = (*_family(subject), *cls.refusals(subject), *_something(subject), *_packed_experts(subject))
        return (*found, *fused_alike(subject), *kernels(subject), *vllm_cache(subject, cls.layers(subject)))

    @classmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        from lbdsl.artifact.contents import files_below, lies_beside

        # What lbdsl wrote may be links, in a snapshot of the hub; others may lead to any file of the user's. Hidden are
        # those of git and of the hub's client.
        beside = {name for name in files_below(artifact) if lies_beside(name)}
        names = [
            name
            for name in files_below(artifact)
            if name not in beside or not (name.startswith(".") or (artifact / name).is_symlink())
        ]
        if any(subject.fp8_caches.values()):
            # The artifact's own code needs no word about its cache; vLLM does.
            names.remove("config.json")
            config = read_json_object(artifact / "config.json")
            entry = with_cache(config.get(FIELD), subject.specs)
            write_json(output / "config.json", config | ({} if entry is None else {FIELD: entry}))
        link_files(artifact, output, names, progress)

    @classmethod
    def how_to_load(cls, output: Path) -> str:
        return (
            f"vllm.LLM({as_string(output)})   # vllm serve {quote(str(output))}\n"
            "  in vLLM's environment, once, in a checkout of lbdsl: pip install --no-deps ."
        )


def _family(subject: Subject) -> Iterator[Diagnostic]:
    family = subject.facts.family_data
    if isinstance(family.vllm, Lacks):
        yield error(
            "LB506",
            f"the plug-in's layers do not support {family.vllm.what}, which {family.model_type} models have",
            help=f"the plug-in serves {', '.join(served())}; serve this one with transformers",
        )
    elif lost := [flag for flag in family.vllm.without if flag in subject.facts.flags]:
        said = f"vLLM's {family.model_type} layers do not follow `{lost[0]}`"
        yield error("LB506", said, help="serve this one with transformers")
    else:
        yield from only_silu(subject, f"vLLM's {family.model_type} layers have")


def _packed_experts(subject: Subject) -> Iterator[Diagnostic]:
    stored = [(i, tensor) for i, spec in enumerate(subject.specs) for tensor, _ in spec.matrices(subject.facts)]
    if layers := {layer for layer, tensor in stored if len(tensor.shape) == 3}:
        said = (
            f"vLLM reads quantized experts one by one, and an artifact has those of a layer in one ({layers_text(layers)})"
        )
        yield error("LB524", said, help="leave the experts as they are; or have no windows, and export it to `native`")


def _something(subject: Subject) -> Iterator[Diagnostic]:
    if all(spec.mixer is None for spec in subject.specs):
        said = "vLLM serves no model in which every attention is gone"
        yield error("LB502", said, help="keep or window at least one layer's attention")
