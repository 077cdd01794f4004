"""From a plan to one of llama.cpp's architectures, or to the reasons why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, note
from lbdsl.export.base import Subject
from lbdsl.export.expresses import ANY, AS_BASE, BASE_HEADS, NO_SINKS, Expresses, refusals
from lbdsl.export.gguf_architectures import DECI, GRANITE_SWA, LLAMA_LIKE, NATIVE, NOT_LLAMA_LIKE, Architecture
from lbdsl.export.gguf_rope import TWO_KINDS, Rope, rope_of, rope_problem
from lbdsl.export.reasons import layers_text, retyped_layers
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.model.layout import Layout, layout_of

ZERO_WIDTH = 32
"""Width of the all-zero MLP that stands for a removed one: the shortest row that llama.cpp can quantize."""

EXPRESSES = Expresses(
    mixer={"attention": {**BASE_HEADS, "window": {"size": ANY, "sink_tokens": NO_SINKS}}},
    ffn={"gated_mlp": {"width": AS_BASE}},
)

_BIGGEST = {"gemma2": 46, "gemma3_text": 62}
_MOST_LAYERS = 512


@dataclass(frozen=True)
class Target:
    """What is written. `layers` are the artifact's indices of the layers that are left, `specs` what they are; `attends`,
    `feeds`, `windowed` and `turns` (has rotary embeddings) go with them. `local_rope` is that of windowed layers where it
    is one of their own."""

    architecture: Architecture
    layout: Layout
    facts: ModelFacts
    config: Mapping[str, Any]
    layers: tuple[int, ...]
    specs: tuple[LayerSpec, ...]
    attends: tuple[bool, ...]
    feeds: tuple[bool, ...]
    windowed: tuple[bool, ...]
    turns: tuple[bool, ...]
    window: int | None
    rope: Rope
    local_rope: Rope | None


def target_of(subject: Subject) -> Diagnosed[Target]:
    """Choose the architecture; diagnostics LB503-LB505 and LB520-LB525. Pure.

    Raises LbdslError when the configuration is unusable.
    """
    layout, config = layout_of(subject.config), subject.config
    family, sizes = layout.family.model_type, layout.sizes
    left = tuple(i for i in range(len(subject.specs)) if subject.has_attention(i) or subject.has_mlp(i))
    # A window beyond all positions is none, except where it decides the rotary embeddings.
    windows = {i: size for i, size in subject.windows.items() if size < sizes.positions or family in TWO_KINDS}
    dropped = tuple(i for i in left if not subject.has_attention(i))
    alone = tuple(i for i in left if not subject.has_mlp(i))
    found = list(_refusals(subject, left, windows, dropped, alone))
    turns = _turns(config, family, left)
    architecture, why = _choose(family, bool(windows), bool(dropped or alone), all(turns) or _every_fourth(turns))
    if family not in NATIVE:
        found.append(
            error(
                "LB520",
                f"llama.cpp export is not written for the {family} family",
                help=f"written for: {', '.join(sorted(NATIVE))}",
            )
        )
    elif architecture is None:
        found.append(error("LB520", why, help="keep those layers, or export to another engine"))
    found += _rope_refusals(subject, family, config, architecture, left, windows)
    if architecture is not None:
        found += _shape_refusals(config, layout, architecture, len(left))
        found += _notes(dropped, alone, left)
    if architecture is None or any(d.is_error for d in found):
        return Diagnosed(None, tuple(found))
    two = family in TWO_KINDS
    return Diagnosed(
        Target(
            architecture,
            layout,
            subject.facts,
            config,
            left,
            tuple(subject.specs[i] for i in left),
            tuple(i not in dropped for i in left),
            tuple(i not in alone for i in left),
            tuple(i in windows for i in left),
            turns,
            next(iter(windows.values()), None),
            rope_of(config, "full_attention" if two else None),
            rope_of(config, "sliding_attention") if two else None,
        ),
        tuple(found),
    )


def _refusals(
    subject: Subject, left: tuple[int, ...], windows: Mapping[int, int], dropped: tuple[int, ...], alone: tuple[int, ...]
) -> list[Diagnostic]:
    found = list(refusals(EXPRESSES, subject.specs, subject.facts.layer_specs, "llama.cpp"))
    if not left:
        found.append(error("LB524", "no layer is left", help="keep at least one"))
    sizes = sorted(set(windows.values()))
    if len(sizes) > 1:
        found.append(
            error(
                "LB504",
                f"llama.cpp has one window size a model; this plan has {', '.join(map(str, sizes))}",
                help="give every windowed layer the same window",
            )
        )
    changed = sorted({*dropped, *alone})
    if windows and changed:
        found.append(
            error(
                "LB521",
                f"no architecture of llama.cpp has both windows ({layers_text(windows)}) and layers "
                f"without attention or MLP ({layers_text(changed)})",
                help="choose one of the two, or drop whole layers: those simply go",
            )
        )
    return found


def _choose(family: str, windows: bool, incomplete: bool, usual_rope: bool) -> tuple[Architecture | None, str]:
    """The architecture, or None and the reason."""
    native = NATIVE.get(family)
    if native is None:
        return None, ""
    if incomplete:
        if family in LLAMA_LIKE:
            return DECI, ""
        return None, (
            f"llama.cpp's only architecture with layers that lack attention or MLP, deci, does not have "
            f"{family}'s particulars: {NOT_LLAMA_LIKE[family]}"
        )
    if (windows and not native.windows) or not usual_rope:
        if family in LLAMA_LIKE or family == "smollm3":
            return GRANITE_SWA, ""
        return None, (
            f"no architecture of llama.cpp has windows together with {family}'s particulars: {NOT_LLAMA_LIKE[family]}"
        )
    return native, ""


def _turns(config: Mapping[str, Any], family: str, left: tuple[int, ...]) -> tuple[bool, ...]:
    if family != "smollm3":
        return (True,) * len(left)
    listed = config.get("no_rope_layers")
    interval = config.get("no_rope_layer_interval") or 4
    return tuple(bool(listed[i]) if isinstance(listed, list) else (i + 1) % interval != 0 for i in left)


def _every_fourth(turns: tuple[bool, ...]) -> bool:
    """The only pattern that llama.cpp's smollm3 has."""
    return all(turn == ((i + 1) % 4 != 0) for i, turn in enumerate(turns))


def _rope_refusals(
    subject: Subject,
    family: str,
    config: Mapping[str, Any],
    architecture: Architecture | None,
    left: tuple[int, ...],
    windows: Mapping[int, int],
) -> list[Diagnostic]:
    kinds = ("full_attention", "sliding_attention") if family in TWO_KINDS else (None,)
    ropes = [rope_of(config, kind) for kind in kinds]
    found = []
    table = architecture is not None and architecture.frequency_table
    for rope, kind in zip(ropes, kinds, strict=True):
        problem = rope_problem(rope, frequency_table=table)
        if problem is None and kind == "sliding_attention" and rope.kind != "default":
            problem = f"{rope.kind} scaling in windowed layers"
        if problem is None and kind == "full_attention" and rope.kind == "yarn" and family == "gemma3_text":
            problem = "YaRN in one kind of layers"
        if problem is not None and architecture is not None:
            found.append(
                error(
                    "LB523",
                    f"llama.cpp's {architecture.name} cannot compute {problem}",
                    help="the model needs another engine",
                )
            )
    if len(ropes) > 1 and (ropes[0] != ropes[1]):
        retyped = retyped_layers(subject, left, windows)
        if retyped:
            found.append(
                error(
                    "LB523",
                    f"in {family} a layer's window decides its rotary embeddings, and llama.cpp has it "
                    f"the same way: {layers_text(retyped)} would get the wrong ones",
                    help="window only layers that have a window in the base model, all of them alike",
                )
            )
    return found


def _shape_refusals(config: Mapping[str, Any], layout: Layout, architecture: Architecture, layers: int) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    sizes, family = layout.sizes, layout.family.model_type

    def refuse(what: str) -> None:
        found.append(
            error("LB524", f"llama.cpp's {architecture.name} cannot compute {what}", help="the model needs another engine")
        )

    activation = config.get("hidden_activation") or config.get("hidden_act") or architecture.activation
    if activation != architecture.activation and not (architecture.activation == "silu" and activation == "swish"):
        refuse(f"the activation {activation!r}; it has {architecture.activation}")
    if architecture.square and sizes.heads * sizes.head_dim != sizes.hidden:
        refuse(f"{sizes.heads} heads of {sizes.head_dim} at a hidden size of {sizes.hidden}: it wants them equal")
    needed = {"attention_bias": {"attn_q", "attn_k", "attn_v", "attn_output"}, "mlp_bias": {"ffn_gate"}}
    for flag in sorted(set(layout.flags) & set(needed)):
        if not needed[flag] <= architecture.biases:
            refuse(f"the biases of {flag}")
    scale = config.get("query_pre_attn_scalar")
    if scale is not None and family in _BIGGEST:
        # It tells the biggest model, which scales otherwise, by its layers: those that are written.
        wanted = sizes.hidden / sizes.heads if layers == _BIGGEST[family] else sizes.head_dim
        if float(scale) != float(wanted):
            refuse(f"query_pre_attn_scalar {scale} in {layers} layers; it takes {wanted:g}")
    if family == "gemma2" and not (
        config.get("attn_logit_softcapping", 50.0) and config.get("final_logit_softcapping", 30.0)
    ):
        refuse("Gemma 2 without caps on scores and logits")
    if family == "gemma3_text" and config.get("attn_logit_softcapping"):
        refuse("a cap on scores")
    if layers > _MOST_LAYERS:
        refuse(f"{layers} layers; it has room for {_MOST_LAYERS}")
    return found


def _notes(dropped: tuple[int, ...], alone: tuple[int, ...], left: tuple[int, ...]) -> list[Diagnostic]:
    found = []
    if left and left[0] in dropped:
        found.append(
            note(
                "LB525",
                f"llama.cpp reads its sizes from the first layer, so layer {left[0]} without attention "
                "is written with a matrix of zeros: the same results and no cache, for hidden x hidden weights",
            )
        )
    if alone:
        found.append(
            note(
                "LB525",
                f"{layers_text(alone)} without MLP are written with one of {ZERO_WIDTH} zeros: "
                "llama.cpp would lose their attention",
            )
        )
    return found
