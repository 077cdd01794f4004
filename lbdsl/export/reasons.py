"""Errors that several formats share: one diagnostic for each reason, with the affected layers and a help text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lbdsl.core.diagnostic import Diagnostic, error, note
from lbdsl.core.digest import canonical_json
from lbdsl.core.units import layers_text
from lbdsl.layer.difference import window_size
from lbdsl.parts import TensorShape

if TYPE_CHECKING:
    from lbdsl.export.base import Subject


def only_silu(subject: Subject, layers_have: str) -> Iterator[Diagnostic]:
    """LB506 for another activation."""
    activation = subject.config.get("hidden_act", "silu")
    if activation != "silu":
        yield error("LB506", f"{layers_have} no {activation} activation, only silu")


def first_attention(subject: Subject, where: str) -> Iterator[Diagnostic]:
    """LB502 if the first layer that is not empty has no attention. Layers before it without attention and MLP are
    no-ops."""
    first = next(iter(subject.left), None)
    if first is None:
        yield error("LB502", f"{where} needs at least one layer with attention")
    elif not subject.has_attention(first):
        yield error(
            "LB502",
            f"{where} needs attention in the first layer that has anything, and layer {first} has only its MLP",
            help=f"keep or window layer {first}: `layers {first} keep`",
        )


FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)
"""Matrices that vLLM computes as one."""


def fused_alike(subject: Subject) -> Iterator[Diagnostic]:
    """LB512 for matrices that vLLM computes as one and that are not stored alike, with the rule that would."""
    found: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for layer, spec in enumerate(subject.specs):
        for names in FUSED:
            modules = [m for m in spec.linear_maps(subject.facts) if m.rpartition(".")[2] in names]
            # How integers were found makes no difference.
            stored = {module: spec.storage(module) for module in modules}
            forms = {name: canonical_json(part.scheme) for name, part in stored.items() if part is not None and part.scheme}
            if forms and (len(set(forms.values())) > 1 or len(forms) < len(modules)):
                done = ", ".join(f"`{module}`" for module in modules if module in forms)
                found.setdefault((names, done), []).append(layer)
    for (matrices, done), layers in found.items():
        said = f"vLLM computes {', '.join(matrices)} as one matrix, so all must be quantized in the same way"
        rule = ", ".join(f'"*.{name}"' for name in matrices)
        help = f"quantize them in one rule: `modules {rule} quantize(...)`"
        yield error("LB512", f"{said}; here {done} in {layers_text(layers)}", help=help)


CPU = 0.0, 0.0
EVERY_GPU = 0.1, 99.0


class Lacking(NamedTuple):
    """What vLLM lacks a kernel for: which kind of storage, on a CPU or GPUs of which compute capability (from, below), for
    which weights, whether it `refuses` them there, what is said, and what to do."""

    kind: str
    on: tuple[float, float]
    lacks: Callable[[Any, TensorShape], bool]
    refuses: bool
    said: str
    help: str


KERNELS = (
    Lacking(
        "int",
        CPU,
        lambda part, tensor: part.bits == 8 and part.activations == 16,
        True,
        "on a CPU vLLM has no kernel for 8-bit weights with 16-bit activations",
        "write `quantize(bits=8, activations=8)`, or serve it on a GPU",
    ),
    Lacking(
        "int",
        CPU,
        lambda part, tensor: part.bits == 4 and tensor.shape[-2] % 32 > 0,
        True,
        "on a CPU vLLM computes 4-bit weights only of matrices with a multiple of 32 rows",
        "leave those matrices as they are, or serve it on a GPU",
    ),
    Lacking(
        "int",
        CPU,
        lambda part, tensor: part.bits == 4 and len(tensor.shape) == 3,
        False,
        "on a CPU vLLM computes experts of 4-bit weights only where the CPU has AMX",
        "leave the experts as they are, or serve it on a GPU",
    ),
    Lacking(
        "int",
        EVERY_GPU,
        lambda part, tensor: part.activations == 16 and (tensor.shape[-1] % 128 > 0 or tensor.shape[-2] % 64 > 0),
        False,
        "on a GPU vLLM's fast kernel (Marlin) needs a multiple of 128 inputs and of 64 outputs",
        "vLLM chooses a slower kernel, or refuses the model if it has none",
    ),
    Lacking(
        "int",
        EVERY_GPU,
        lambda part, tensor: part.activations == 16 and part.group not in (32, 64, 128),
        False,
        "on a GPU vLLM's fast kernel (Marlin) has groups of 32, 64 and 128 only",
        "write `group=128`, `group=64` or `group=32`",
    ),
    Lacking(
        "int",
        (10.0, 11.0),
        lambda part, tensor: part.activations == 8,
        True,
        "on GPUs of compute capability 10 vLLM has no kernel for 8-bit integers",
        "write `quantize(form=fp8)`, or serve it on another GPU or on a CPU",
    ),
    Lacking(
        "fp8",
        CPU,
        lambda part, tensor: part.activations == 16,
        True,
        "on a CPU vLLM has no kernel for 8-bit floats with 16-bit activations",
        "write `quantize(form=fp8)`, or serve it on a GPU",
    ),
    Lacking(
        "fp8",
        CPU,
        lambda part, tensor: len(tensor.shape) == 3,
        True,
        "on a CPU vLLM has no kernel for experts of 8-bit floats with a scale for each row",
        "leave the experts as they are, or serve it on a GPU",
    ),
    Lacking(
        "nvfp4",
        CPU,
        lambda part, tensor: True,
        True,
        "on a CPU vLLM has no kernel for 4-bit floats",
        "write `quantize(form=fp8)`, or serve it on a GPU",
    ),
    Lacking(
        "fp8",
        (0.1, 8.9),
        lambda part, tensor: part.activations == 8,
        False,
        "on GPUs below compute capability 8.9 vLLM rounds no activations to 8-bit floats, and computes in 16 bits",
        "serve it on a GPU of 8.9 (Ada), 9.0 (Hopper) or later, which multiply 8-bit floats",
    ),
    Lacking(
        "nvfp4",
        (0.1, 10.0),
        lambda part, tensor: part.activations == 4,
        False,
        "on GPUs below compute capability 10 vLLM rounds no activations to 4-bit floats, and computes in 16 bits",
        "serve it on a GPU of 10.0 (Blackwell) or later, which multiply 4-bit floats; "
        "below, `activations=16` is judged as it is served",
    ),
)
"""Source: vLLM 0.32, compressed_tensors/schemes and kernels/mixed_precision; llm-compressor issue 973."""


def kernels(subject: Subject) -> Iterator[Diagnostic]:
    """LB513 for quantized weights that vLLM can compute only on some hardware: an error where it is that which is asked
    for."""
    stored = [(i, tensor, part) for i, spec in enumerate(subject.specs) for tensor, part in spec.matrices(subject.facts)]
    for lacking in KERNELS:
        if not _concerns(subject, lacking.on):
            continue
        if layers := {i for i, tensor, part in stored if part.kind == lacking.kind and lacking.lacks(part, tensor)}:
            say = error if lacking.refuses and subject.capability is not None else note
            yield say("LB513", f"{lacking.said} ({layers_text(layers)})", help=lacking.help)


def cache_words(subject: Subject, layers: Sequence[int]) -> list[str]:
    """What vLLM must be told of an export with these layers: only where some have a cache of 8-bit floats."""
    whole = [str(place) for place, layer in enumerate(layers) if subject.fp8_caches.get(layer) is False]
    if not whole or not any(subject.fp8_caches.values()):
        return []
    return ["--kv-cache-dtype", "fp8", "--kv-cache-dtype-skip-layers", *whole]


def vllm_cache(subject: Subject, layers: Sequence[int]) -> Iterator[Diagnostic]:
    """LB532 for a cache of 8-bit floats: what vLLM, which has these layers, must be told, and where it computes
    otherwise."""
    if not any(subject.fp8_caches.values()):
        return
    if words := cache_words(subject, layers):
        told = f"serve it on a GPU with `{' '.join(words)}`"
        said = "vLLM has one kind of cache for all layers"
        if subject.capability == 0:
            yield error("LB532", f"on a CPU {said}", help="give all layers the same, or serve it on a GPU")
        else:
            yield note("LB532", f"{said} until it is told which have another", help=told)
    ways = {
        "on a CPU it cuts off what this model rounds": CPU,
        "on a GPU some of its kernels round queries, too": EVERY_GPU,
    }
    said = " and ".join(way for way, on in ways.items() if _concerns(subject, on))
    help = "compare quality there; `--kv-cache-dtype auto` does not undo it, `--kv-cache-dtype bfloat16` does"
    yield note("LB532", f"vLLM keeps the cache in 8-bit floats: {said}", help=help)


def _concerns(subject: Subject, on: tuple[float, float]) -> bool:
    """Whether it may be served on a device of these."""
    return subject.capability is None or on[0] == subject.capability or on[0] <= subject.capability < on[1]


def retyped_layers(subject: Subject) -> list[int]:
    """The remaining layers that gained or lost a window compared to the base."""
    windows = subject.windows
    return [i for i in subject.left if (i in windows) != (window_size(subject.base[i]) is not None)]
