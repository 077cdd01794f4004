"""What a format can express about a layer, declared by part kind and field; everything else is an error that names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, error
from lbdsl.core.units import layers_text
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts import Part, Slot
from lbdsl.parts.base import Value

NAMES = {Slot.MIXER: "mixer", Slot.FFN: "MLP", Slot.WEIGHTS: "storage of weights"}


@dataclass(frozen=True)
class Can:
    """What a format can express for one field.

    values: the possible values, None for any
    one:    whether all layers must have the same value
    base:   whether the value must be the base model's
    code, refusal, help: the error for other values; without `refusal` the message names the field
    """

    values: tuple[Any, ...] | None = None
    one: bool = False
    base: bool = False
    code: str = "LB505"
    refusal: str = ""
    help: str = "serve the artifact with transformers, or use another action on these layers"

    @property
    def words(self) -> str:
        """Text for the table of formats in the docs: `any`, `one for all layers`, `the base's`, `0`."""
        if self.values is not None:
            return " or ".join("no" if value is False else str(value) for value in self.values)
        return "the base's" if self.base else "one for all layers" if self.one else "any"


Fields = Mapping[str, "Can | Fields"]

ANY = Can()
AS_BASE = Can(base=True)
NO_SINKS = Can(
    values=(0,),
    code="LB503",
    refusal="cannot keep sink tokens",
    help="write `sinks=learned` or `sinks=0` in the recipe and heal for it; serve this one with transformers",
)
NO_LEARNED_SINKS = Can(
    values=(False,),
    code="LB503",
    refusal="cannot keep learned sinks",
    help="`granite`, `gguf` and `vllm` can, each for some families and plans: docs/exports.md",
)
NO_FULL_HEADS = Can(
    values=(0,),
    refusal="cannot keep KV heads full beside windowed ones in one layer",
    help="`vllm`, with lbdsl's plug-in, can: docs/exports.md; or keep whole layers full",
)
ONE_WINDOW = Can(
    one=True,
    code="LB504",
    refusal="has one window for all layers",
    help="give all windowed layers, those with a native window too, the same window",
)
_ALIKE = "give all layers the same, or export to a format that has sizes of their own for layers: docs/exports.md"
_OTHER = Can(help="store them as integers, `quantize(bits=8)`, or serve the artifact with transformers or vLLM")
ONE_KV_HEADS = Can(one=True, refusal="has one number of KV heads for all layers", help=_ALIKE)
ONE_WIDTH = Can(one=True, refusal="has one MLP width for all layers", help=_ALIKE)
ONE_EXPERTS = Can(one=True, refusal="has one number of experts for all layers", help="give all layers the same")


@dataclass(frozen=True)
class Expresses:
    """The supported part kinds of each slot with their fields, and the slots that may be empty: `mixer`, `ffn`, or `block`
    for both at once."""

    mixer: Mapping[str, Fields]
    ffn: Mapping[str, Fields]
    weights: Mapping[str, Fields] = field(default_factory=dict)
    empty: tuple[str, ...] = ("mixer", "ffn")

    def kinds(self, slot: Slot) -> Mapping[str, Fields]:
        fields: Mapping[str, Fields] = getattr(self, slot.value)
        return fields


def llama_layers(
    window: Can,
    learned_sinks: Can = NO_LEARNED_SINKS,
    *,
    full_heads: Can = NO_FULL_HEADS,
    alike: bool = False,
    experts: Can | None = None,
    floats: bool = True,
    delta_nets: tuple[str, ...] = (),
) -> Expresses:
    """Attention with the base's query heads and without sink tokens (`window`: what its size may be), gated MLPs, and
    integers in any of their forms, with `floats` also floats. `alike`: all layers have the same sizes, and none lacks
    only one of its parts. `experts`: also mixtures of experts, and what their number may be; `delta_nets`: also gated delta
    nets, whose fields these are."""
    seen = {"size": window, "sink_tokens": NO_SINKS, "sink_logits": learned_sinks, "full_heads": full_heads}
    moe = {} if experts is None else {"moe": {"experts": experts, **dict.fromkeys(("top_k", "width", "shared"), AS_BASE)}}
    heads = {"heads": AS_BASE, "kv_heads": ONE_KV_HEADS if alike else ANY, "head_dim": AS_BASE}
    return Expresses(
        mixer={"attention": {**heads, "window": seen, "cache": ANY}}
        | ({"gated_delta_net": dict.fromkeys(delta_nets, AS_BASE)} if delta_nets else {}),
        ffn={"gated_mlp": {"width": ONE_WIDTH if alike else ANY}, **moe},
        weights={"int": dict.fromkeys(("bits", "group", "activations", "method"), ANY)}
        | ({"fp8": {"activations": ANY}, "nvfp4": {"activations": ANY}} if floats else {}),
        empty=("block",) if alike else ("mixer", "ffn"),
    )


def refusals(
    expresses: Expresses,
    specs: tuple[LayerSpec, ...],
    base: tuple[LayerSpec, ...],
    where: str,
    *,
    empty: bool = True,
) -> tuple[Diagnostic, ...]:
    """Errors for everything in the layers that `where` (the name of a format or its engine) cannot express. With
    `empty=False` empty slots are not checked."""
    found: dict[tuple[str, str, str], list[int]] = {}

    def refuse(layer: int, what: str, can: Can = ANY) -> None:
        layers = found.setdefault((can.code, f"{where} {what}", can.help), [])
        if layer not in layers[-1:]:  # Once for all modules of a layer.
            layers.append(layer)

    seen: dict[tuple[str, Can], dict[Any, list[int]]] = {}
    for layer, spec in enumerate(specs):
        for slot, part, was in _parts(spec, base[layer]):
            if part is None:
                whole = spec.mixer is None and spec.ffn is None
                if empty and slot.value not in expresses.empty and not (whole and "block" in expresses.empty):
                    refuse(layer, f"has a {NAMES[slot]} in every layer")
                continue
            fields = expresses.kinds(slot).get(part.kind)
            if fields is None:
                refuse(layer, f"has no {NAMES[slot]} called `{part.kind}`", _OTHER if slot is Slot.WEIGHTS else ANY)
                continue
            for path, value, own, can in _fields(slot.value, part, was, fields):
                if can is None:
                    refuse(layer, f"cannot say `{path}`")
                elif (can.values is not None and value not in can.values) or (can.base and value != own):
                    refuse(layer, can.refusal or f"cannot change `{path}`, here {value} instead of {own}", can)
                elif can.one:
                    seen.setdefault((path, can), {}).setdefault(value, []).append(layer)
    errors = [
        error(code, f"{message} ({layers_text(layers)})", help=help) for (code, message, help), layers in found.items()
    ]
    return (*errors, *_several(seen, where))


def _several(seen: Mapping[tuple[str, Can], Mapping[Any, list[int]]], where: str) -> Iterator[Diagnostic]:
    for (path, can), values in seen.items():
        if len(values) > 1:
            named = "; ".join(f"{value} in {layers_text(layers)}" for value, layers in sorted(values.items()))
            said = can.refusal or f"has one `{path}` for all layers"
            yield error(can.code, f"{where} {said}, this model has {len(values)}: {named}", help=can.help)


def _parts(spec: LayerSpec, base: LayerSpec) -> Iterator[tuple[Slot, Part | None, Part | None]]:
    yield Slot.MIXER, spec.mixer, base.mixer
    yield Slot.FFN, spec.ffn, base.ffn
    for module, part in spec.weights:
        yield Slot.WEIGHTS, part, base.storage(module)


def _fields(path: str, value: Value, was: Value | None, fields: Fields) -> Iterator[tuple[str, Any, Any, Can | None]]:
    """Yield (path, value, the base's value, `Can` or None) of each field, including fields of nested values."""
    for name in type(value).model_fields:
        if name == "kind":
            continue
        here, own = getattr(value, name), getattr(was, name, None)
        can = fields.get(name)
        if can is None and here == type(value).model_fields[name].default:
            continue  # What a format cannot say, it need not say here.
        if isinstance(can, Mapping):
            if isinstance(here, Value):
                yield from _fields(f"{path}.{name}", here, own, can)
            elif here is not None:
                yield f"{path}.{name}", here, own, None
        else:
            yield f"{path}.{name}", here, own, can
