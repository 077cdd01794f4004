"""`check_targets`: which engines can serve a plan's result, reported before it is applied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbdsl.core.diagnostic import Diagnostic, Severity, fail, note, warning
from lbdsl.core.nearest import known_hints
from lbdsl.core.units import bytes_text, plural, tokens_text
from lbdsl.cost.cost import MEMORY_SHARE, Machine, ModelCost, model_cost
from lbdsl.cost.devices import KINDS, Devices, devices_of
from lbdsl.cost.facts import ModelFacts
from lbdsl.export import Exporter, Subject, exporters
from lbdsl.export.base import subject_of
from lbdsl.export.vllm_cache import CacheLayout, Serving, layout_of_layers
from lbdsl.families import ARTIFACT_PREFIX, FAMILIES
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.gguf_model import gguf_checkpoint
from lbdsl.model.source import ModelSource, is_artifact
from lbdsl.model.tensor_names import model_config
from lbdsl.plan.estimate import OF_REQUESTS, on_device
from lbdsl.plan.schema import Plan, Served
from lbdsl.plan.words import AS_SAVED
from lbdsl.solve.choose import Form, Forms

if TYPE_CHECKING:
    from lbdsl.session.model import OpenModel

TRANSFORMERS, VLLM = "transformers", "vllm"
OF_DEVICE = {"LB513", "LB532"}
"""Errors of a format for what an engine has no kernel for on a device."""

ENGINE_NAMES = {"vllm": "vLLM", "llamacpp": "llama.cpp", "transformers": "transformers"}


@dataclass(frozen=True)
class Answer:
    """One export format's findings for a plan: it can express the plan when none of them is an error."""

    kind: str
    findings: tuple[Diagnostic, ...]

    @property
    def can(self) -> bool:
        return not any(finding.is_error for finding in self.findings)


@dataclass(frozen=True)
class Target:
    """An engine's answers, and findings for the user: never errors, because the plan can be applied anyway.

    `cache` is the predicted vLLM KV cache as JSON fields, None for other engines; `device` what it is to run on, and
    `gain` what it holds and computes there at most, None where the data sheet is not known.
    """

    engine: str
    answers: tuple[Answer, ...]
    findings: tuple[Diagnostic, ...]
    cache: Mapping[str, Any] | None = None
    device: str | None = None
    gain: Mapping[str, Any] | None = None

    @property
    def can(self) -> bool:
        return self.engine == TRANSFORMERS or any(answer.can for answer in self.answers)

    def to_json(self) -> dict[str, Any]:
        """One entry of `targets` in `plan --json`."""
        return {
            "engine": self.engine,
            **({"device": self.device} if self.device else {}),
            "can": self.can,
            "exports": [
                {"kind": answer.kind, "can": answer.can, "findings": [d.to_json() for d in answer.findings]}
                for answer in self.answers
            ],
            "findings": [finding.to_json() for finding in self.findings],
            "cache": self.cache,
            **({"gain": self.gain} if self.gain is not None else {}),
        }


def engines() -> tuple[str, ...]:
    """The names that `plan --target` accepts: the engines of the exporters, and transformers."""
    return tuple(sorted({exporter.engine for exporter in exporters().values()} | {TRANSFORMERS}))


def check_engines(names: Iterable[str]) -> None:
    """Raise LB501 for an unknown engine or device, before anything is measured."""
    for name in names:
        engine, at, device = name.partition("@")
        if at and not device:
            raise fail("LB501", f"`{name}` names no device", help="as in vllm@H100")
        if engine not in engines():
            raise fail("LB501", f"no engine `{engine}`", help=known_hints(engine, engines(), "engines"))
        if device and engine != VLLM:
            raise fail("LB501", f"`{name}`: only vLLM's answer depends on the device", help=f"write `{engine}`")
        if device:
            _capability(device)


def _capability(device: str) -> float:
    """As of `Subject`. Raises LB501."""
    try:
        found = devices_of(device)
    except ValueError as problem:
        raise fail("LB501", str(problem)) from None
    if found.kind != "cpu" and found.capability is None:
        raise fail("LB501", f"what a device of {found.kind} computes is not known", help=f"name one of {', '.join(KINDS)}")
    return found.capability or 0.0


def check_targets(plan: Plan, bench: OpenModel, names: Iterable[str]) -> tuple[Target, ...]:
    """Ask every exporter of each engine whether it could write the plan's result; nothing is loaded."""
    names = tuple(dict.fromkeys(names))
    if not names:
        return ()
    subject = subject_of(base_config(bench.source, bench.facts), bench.facts, plan.specs)
    found = []
    for name in names:
        engine, _, device = name.partition("@")
        asked = replace(subject, capability=_capability(device)) if device else subject
        found.append(check_target(asked, engine, device or None, folder=_files(bench.source)))
    return tuple(found)


def forms_of(source: ModelSource, facts: ModelFacts, names: Iterable[str]) -> Forms:
    """The export formats through which each engine that `serves` asks for loads a model."""
    config = base_config(source, facts)

    subject = cache(lambda specs: subject_of(config, facts, specs))

    def form(exporter: type[Exporter], engine: str) -> Form:
        def can(specs: tuple[LayerSpec, ...]) -> bool:
            of = subject(specs)
            return engine in exporter.engines(of) and not any(d.is_error for d in exporter.check(of))

        return cache(can)

    found: dict[str, tuple[Form, ...]] = {}
    for name in names:
        engine, _, plug_in = name.partition("+")
        asked = [exporter for exporter in exporters().values() if plug_in or not exporter.plug_in]
        always: tuple[Form, ...] = (lambda specs: True,)
        found[name] = always if engine == TRANSFORMERS else tuple(form(exporter, engine) for exporter in asked)
    return found


def serving_of(plan: Plan, bench: OpenModel) -> tuple[Served, ...]:
    """For each engine, the export formats through which it can serve the plan's result, or the first obstacle."""
    subject = subject_of(base_config(bench.source, bench.facts), bench.facts, plan.specs)
    found = []
    for engine in (TRANSFORMERS, *(name for name in engines() if name != TRANSFORMERS)):
        answers = check_target(subject, engine, folder=_files(bench.source)).answers
        can = tuple(answer.kind for answer in answers if answer.can)
        if engine == TRANSFORMERS:
            can = (AS_SAVED, *can)
        # The exporter with the fewest errors is the closest to what was asked for.
        objections = min(
            ([d.message for d in answer.findings if d.is_error] for answer in answers if not answer.can),
            key=len,
            default=["there is no export to it"],
        )
        obstacle = None if can else objections[0] + (f" (and {len(objections) - 1} more)" if len(objections) > 1 else "")
        found.append(Served(engine=ENGINE_NAMES.get(engine, engine), formats=can, obstacle=obstacle))
    return tuple(found)


def _files(source: ModelSource) -> Path | None:
    """The folder of the base's tokenizer; None where it is in a GGUF file, from which it is made."""
    return None if source.gguf_path is not None else source.path


def check_target(subject: Subject, engine: str, device: str | None = None, folder: Path | None = None) -> Target:
    """One engine's answers, for what `subject` says of the device, and for the tokenizer in `folder`."""
    asked = (item for item in exporters().items() if engine in item[1].engines(subject))
    answers = tuple(
        Answer(kind, (*exporter.check(subject), *(exporter.check_tokenizer(folder, subject) if folder else ())))
        for kind, exporter in asked
    )
    findings = list(_which(engine, answers, device))
    cache = gain = None
    if engine == VLLM and any(answer.can for answer in answers):
        prediction, cache = _cache(subject, device)
        findings += prediction
        gain = _gain(subject, devices_of(device), by_layout=cache is not None) if device else None
    return Target(engine, answers, tuple(findings), cache, device, gain)


def base_config(source: ModelSource, facts: ModelFacts) -> dict[str, Any]:
    """The base model's configuration as input for exporters, from config.json or the GGUF header."""
    config = dict(gguf_checkpoint(source.gguf_path).config if source.gguf_path is not None else model_config(source.path))
    for name in ("lbdsl", "auto_map"):
        config.pop(name, None)
    config["model_type"] = str(config.get("model_type", facts.family)).removeprefix(ARTIFACT_PREFIX)
    if is_artifact(source):
        config["architectures"] = [FAMILIES[config["model_type"]].architecture]
    return config


def _which(engine: str, answers: tuple[Answer, ...], device: str | None) -> Iterable[Diagnostic]:
    """Which format to use, with its findings, or why there is none."""
    name = ENGINE_NAMES.get(engine, engine) + (f" on {device}" if device else "")
    can = [answer for answer in answers if answer.can]
    if engine == TRANSFORMERS:
        yield note(
            "LB508", "transformers: the artifact itself loads there, with trust_remote_code=True or after `import lbdsl.hf`"
        )
        if can:
            yield note(
                "LB508",
                f"transformers: exported to `{can[0].kind}` it needs no code of lbdsl's",
                help=f"lbdsl export ARTIFACT --to {can[0].kind}",
            )
    elif can:
        others = f"; also `{'`, `'.join(answer.kind for answer in can[1:])}`" if can[1:] else ""
        yield note("LB508", f"{name}: export to `{can[0].kind}`{others}", help=f"lbdsl export ARTIFACT --to {can[0].kind}")
    else:
        said = "no format can express this plan" if answers else "there is no export to it"
        if any({d.code for d in answer.findings if d.is_error} <= OF_DEVICE for answer in answers):
            said = "it cannot compute this plan there"
        yield warning("LB511", f"{name}: {said}")
    shown: dict[Diagnostic, list[str]] = {}
    for answer in answers:
        # Show the warnings of formats that can express the plan; the errors of the others only when no format can.
        if answer.can or not can:
            for finding in answer.findings:
                if answer.can or finding.is_error:
                    shown.setdefault(finding, []).append(f"`{answer.kind}`")
    for finding, kinds in shown.items():
        softer = Severity.WARNING if finding.is_error else finding.severity
        if engine == TRANSFORMERS and finding.is_error:
            softer = Severity.NOTE
        yield replace(finding, severity=softer, message=f"{name}, {', '.join(kinds)}: {finding.message}")


def _cache(subject: Subject, device: str | None) -> tuple[list[Diagnostic], dict[str, Any] | None]:
    """LB509: vLLM's KV cache groups and the capacity in its log, compared with the base."""
    facts, name = subject.facts, "vLLM's cache" + (f" on {device}" if device else "")
    if len({*subject.fp8_caches.values()}) > 1:
        return [note("LB509", f"{name} is not predicted where only some layers have 8-bit floats")], None
    if any(spec.mixer is not None and spec.mixer.kind != "attention" for spec in subject.specs):
        return [note("LB509", f"{name} is not predicted where layers have a state instead of one")], None
    serving, batches = Serving(max_model_len=facts.positions), "; smaller batches reserve less for windows"
    if subject.capability == 0:
        serving = replace(serving, block_size=128, batched_tokens=4096, batches=1)
    else:
        batches = f" and asynchronous scheduling{batches}"
        if subject.capability is None:
            batches += ", and on a CPU, where vLLM schedules one batch at a time, its log may say another number"
    base, changed = layout_of_layers(facts.layer_specs, facts), layout_of_layers(subject.specs, facts)
    before, after = base.capacity(serving), changed.capacity(serving)
    gain = f" (x{after / before:.2f})" if before else ""
    held = [bytes_text(layout.held_bytes(serving.max_model_len, serving)) for layout in (base, changed)]
    length = tokens_text(serving.max_model_len)
    said = [
        note(
            "LB509",
            f"{name}: {_groups_text(changed, serving)}; its log will say {after:,} tokens a GiB, "
            f"{before:,} for the base{gain}, at max_model_len={serving.max_model_len}",
            help=(
                f"a decoding sequence of {length} tokens holds {held[1]}, the base's {held[0]}",
                f"computed for vLLM's defaults on a {'CPU' if subject.capability == 0 else 'GPU'}: "
                f"block_size={serving.block_size}, max_num_batched_tokens={serving.batched_tokens}{batches}",
            ),
        )
    ]
    if changed.lost > 0.25:
        said.append(
            warning(
                "LB509",
                f"{name}: {changed.lost:.0%} of it is padding and holds nothing",
                help=(
                    "make the numbers of layers of each kind (full or windowed, KV heads) multiples of each other",
                    "a layer's KV heads should divide those of the layers with the most",
                ),
            )
        )
    if after <= before and changed != base:
        said.append(
            warning(
                "LB509",
                f"{name} gains nothing here: padding and what windows reserve outweigh what was taken away",
                help=("window or drop more layers, or serve with a smaller max_num_batched_tokens",),
            )
        )
    settings = {
        "memory_bytes": serving.memory,
        "max_model_len": serving.max_model_len,
        "block_size": serving.block_size,
        "max_num_batched_tokens": serving.batched_tokens,
        "concurrent_batches": serving.batches,
    }
    return said, {"settings": settings, "base": base.to_json(serving), "changed": changed.to_json(serving)}


def _gain(subject: Subject, devices: Devices, *, by_layout: bool) -> dict[str, Any] | None:
    """How many requests of 8Ki tokens fit beside the weights, as vLLM lays out their caches if it is known how, and bounds
    of tokens a second, of the base and of what becomes of it."""
    facts, ctx = subject.facts, min(OF_REQUESTS, subject.facts.positions)
    base, changed = facts.cost, model_cost(facts, subject.specs)
    known = devices.memory is not None and devices.flops is not None and devices.bandwidth is not None
    if not known or not changed.kv_bytes(ctx):
        return None
    bandwidth, flops, memory = (devices.count * (each or 0) for each in (devices.bandwidth, devices.flops, devices.memory))
    machine = Machine(bandwidth, flops, int(memory), packed_flops=math.inf)

    def of(cost: ModelCost) -> dict[str, Any]:
        requests = int(cost.fitting_batch(machine, ctx))
        if by_layout and requests:
            room = Serving(max_model_len=ctx, memory=int(MEMORY_SHARE * memory) - cost.weights)
            requests = layout_of_layers([layer.spec for layer in cost.layers], facts).capacity(room) // ctx
        rates = on_device(cost, machine, ctx, requests)
        return {"weights": cost.weights, "cache_bytes": cost.kv_bytes(ctx), "requests": requests, **rates}

    settings = {"memory_bytes": int(memory), "bandwidth": bandwidth, "flops": flops, "context": ctx}
    return {"settings": settings, "base": of(base), "changed": of(changed)}


def _groups_text(layout: CacheLayout, serving: Serving) -> str:
    """`3 groups of 2 layers (2 full, 1 windowed at 16 with 1 KV head in blocks of 48 tokens, 1 of 6 places padding)`.

    KV heads are given when layers differ in them, and block sizes when they differ from the configured one.
    """
    by_heads = len({heads for group in layout.groups for heads in group.kv_heads}) > 1
    counts: dict[str, int] = {}
    for group in layout.groups:
        said = "full" if group.window is None else f"windowed at {group.window}"
        if by_heads:
            numbers = sorted(set(group.kv_heads), reverse=True)
            said += f" with {' or '.join(map(str, numbers))} KV head{'' if numbers == [1] else 's'}"
        if (tokens := layout.block_tokens(group, serving)) != serving.block_size:
            said += f" in blocks of {tokens} tokens"
        counts[said] = counts.get(said, 0) + 1
    kinds = [f"{count} {said}" for said, count in counts.items()]
    if layout.padding:
        kinds.append(f"{layout.padding} of {layout.places} places padding")
    if layout.lost > layout.padding / max(layout.places, 1):
        kinds.append(f"{layout.lost:.0%} of it padding")
    return f"{plural(len(layout.groups), 'group')} of {plural(layout.size, 'layer')} ({', '.join(kinds)})"
