"""Read and check an artifact's layer specifications for the plug-in. Does not import vLLM, so it can be tested without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import gcd
from typing import Any

from lbdsl.model.hybrid.lbdsl_layers import EXPERTS, check_fields, check_layer, checked_layers, expert_width
from lbdsl.vllm.served import KNOWN


def checked(lbdsl: dict[str, Any] | None, family: str, config: Any) -> dict[str, Any]:
    """The checked `lbdsl` entry of a configuration; None means that every layer is as in the base. Raises ValueError for a
    wrong version or number of layers, and for an unsupported part kind, field, size or window, which it names."""
    entry = checked_layers(lbdsl, family, config)
    for index, spec in enumerate(entry["layers"]):
        where = f"config.lbdsl.layers[{index}]"
        check_layer(spec, where, KNOWN)
        _check_sizes(config, spec, where)
        if spec["mixer"] is not None:
            window_of(spec["mixer"], where)
    return entry


def window_of(mixer: dict[str, Any], where: str) -> int | None:
    """The layer's window in tokens, None for full attention; raises ValueError if vLLM's attention cannot compute it."""
    window = mixer["window"]
    if window is None:
        return None
    optional = {"sink_logits": False, "full_heads": 0}
    check_fields({**optional, **window}, ("size", "sink_tokens", *optional), f"{where}: a window")
    if window["sink_tokens"]:
        raise ValueError(
            f"{where}: vLLM cannot keep sink tokens (sink_tokens={window['sink_tokens']}); it frees the first blocks of a "
            "sequence when they leave the window"
        )
    size: int = window["size"]
    return size


def has_sink_logits(mixer: dict[str, Any]) -> bool:
    """Whether the window has learned sinks."""
    return bool((mixer["window"] or {}).get("sink_logits"))


def full_heads_of(mixer: dict[str, Any]) -> int:
    """How many KV heads, the first ones, see all tokens beside others with the window."""
    return int((mixer["window"] or {}).get("full_heads", 0))


def module_heads(mixers: Iterable[dict[str, Any] | None]) -> Iterator[list[tuple[bool, int]]]:
    """For each layer's attention the modules that compute it in vLLM: whether it is windowed, and its number of KV heads.

    Full heads and windowed ones are apart. vLLM's pages are as large as the module with the most KV heads makes them, and
    hold more tokens of one whose number divides that: so what is taken apart is of numbers that do.
    """
    layers = []
    for mixer in mixers:
        full = full_heads_of(mixer) if mixer is not None else 0
        heads = mixer["kv_heads"] if mixer is not None else 0
        layers.append([(False, full), (True, heads - full)] if full else [(bool(mixer and mixer["window"]), heads)])
    most = max((heads for layer in layers for _, heads in layer), default=0)
    for layer in layers:
        if len(layer) > 1:
            layer = [(windowed, size) for windowed, n in layer for size in [gcd(n, most)] for _ in range(n // size)]
        yield [module for module in layer if module[1]]


def sizes_of(spec: dict[str, Any], config: Any) -> dict[str, int]:
    """The layer's own sizes, as the configuration fields that vLLM's layer classes read."""
    mixer, ffn = spec["mixer"], spec["ffn"]
    sizes = {} if mixer is None else {"num_key_value_heads": mixer["kv_heads"]}
    if ffn is None:
        return sizes
    if ffn["kind"] != "moe":
        return {**sizes, "intermediate_size": ffn["width"]}
    experts = {name: ffn["experts"] for name in EXPERTS if hasattr(config, name)}
    return {**sizes, **experts, "num_experts_per_tok": ffn["top_k"], expert_width(config): ffn["width"]}


def experts_of(config: Any) -> dict[str, int]:
    """The number of experts of a layer, and their width, as vLLM's classes call them."""
    count = next(getattr(config, name) for name in EXPERTS if hasattr(config, name))
    return {"num_experts": count, "intermediate_size": getattr(config, expert_width(config))}


def _check_sizes(config: Any, spec: dict[str, Any], where: str) -> None:
    """Raise ValueError for invalid sizes, and for query heads or a head size that differ from the model's."""
    heads, mixer = config.num_attention_heads, spec["mixer"]
    for name, value in sizes_of(spec, config).items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{where}: {name} is {value!r}, not a whole number from 1")
    if mixer is None:
        return
    has = {"heads": heads, "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads}
    for name, own in has.items():
        if mixer[name] != own:
            raise ValueError(f"{where}: lbdsl's vLLM plug-in has no layers with another {name}: {mixer[name]}, not {own}")
    if heads % mixer["kv_heads"]:
        raise ValueError(f"{where}: {heads} query heads cannot share {mixer['kv_heads']} KV heads alike")
    if not 0 <= full_heads_of(mixer) < mixer["kv_heads"]:
        raise ValueError(f"{where}: {full_heads_of(mixer)} of {mixer['kv_heads']} KV heads are full: one has the window")
