"""Collect statistics of the base's activations layer by layer, and cache them; new weights are computed from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lbdsl.core.cache import STATISTICS
from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_text
from lbdsl.core.files import keep_in_cache, read_entry
from lbdsl.core.progress import Report, unreported
from lbdsl.core.units import bytes_text
from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import Stat
from lbdsl.measure.flow import Flow, push, room_for_streams, stream_bytes
from lbdsl.measure.layer_source import LayerSource
from lbdsl.measure.taken import LayerStatistics, Statistics, Wanted
from lbdsl.model.hybrid.lbdsl_redirect import Redirected, attend
from lbdsl.statistics import Attended, Observed, Routed, Statistic, statistic_of

CAP = 2**34
"""Bytes that the statistics of one plan may take on disk; only one layer's are in memory at a time."""


def take_statistics(
    source: Callable[[], LayerSource],
    facts: ModelFacts,
    wanted: Wanted,
    blocks: TokenBlocks,
    folder: Path,
    fingerprint: str,
    *,
    progress: Report = unreported,
    batch: int = 1,
) -> Statistics:
    """Collect those of `wanted` that are not in `folder` yet, save them there under `fingerprint`, and return all.

    `source` returns the base. Each layer's statistics are saved as soon as they are complete. Raises LbdslError LB346 if
    they would take more than CAP bytes, and what `pass_over` raises.
    """
    size = {layer: 4 * sum(math.prod(stat.dims) for stat in stats) for layer, stats in wanted.items()}
    if sum(size.values()) > CAP:
        raise fail(
            "LB346",
            f"the statistics of this plan would take {bytes_text(sum(size.values()))}, up to "
            f"{bytes_text(max(size.values()))} for each of {len(size)} layers; at most {bytes_text(CAP)} are kept",
            help=(
                "use the action that needs them in fewer layers; a ranking needs them in every layer that it looks at",
                "`refit=false` keeps what `width` needs small",
            ),
        )
    missing = {}
    for layer, stats in sorted(wanted.items()):
        there = kept_values(folder, fingerprint, layer, stats)
        if any(stat.text not in there for stat in stats):
            missing[layer] = [stat for stat in stats if stat.text not in there]

    def keep(layer: int, values: LayerStatistics) -> None:
        for stat in missing[layer]:
            keep_value(folder, fingerprint, layer, stat, values[stat.text])

    if missing:
        pass_over(source(), facts, missing, blocks, keep, progress=progress, batch=batch)
    return kept_statistics(folder, fingerprint, wanted)


def kept_statistics(folder: Path, fingerprint: str, wanted: Wanted) -> Statistics:
    """Those of `wanted` that are already in `folder`."""
    return Statistics(lambda layer: kept_values(folder, fingerprint, layer, wanted.get(layer, ())))


def pass_over(
    source: LayerSource,
    facts: ModelFacts,
    wanted: Wanted,
    blocks: TokenBlocks,
    use: Callable[[int, LayerStatistics], None],
    *,
    progress: Report = unreported,
    batch: int = 1,
) -> None:
    """Run all of the text once through the layers of `source`, up to the last layer of `wanted`; call `use` with each
    layer's statistics when the text has passed it. Only one layer's statistics are in memory, so they may be large (a Gram
    matrix). `source` may be a changed model; `facts` are those of its base. Raises LbdslError LB306 for values that are NaN
    or infinite, LB346 for a text whose hidden states do not fit in memory.
    """
    last = max(wanted)
    ids = blocks.ids
    check_streams(source, (blocks,), 2)

    @contextmanager
    def around(index: int, layer: nn.Module) -> Iterator[None]:
        stats = {stat: statistic_of(stat) for stat in wanted.get(index, ())}
        spec = LayerSpec.model_validate(source.hybrid.config.lbdsl["layers"][index])
        sums: dict[Stat, dict[str, Tensor]] = {stat: {} for stat in stats}
        with ExitStack() as hooks:
            for stat, statistic in stats.items():
                for module in statistic.watched(spec, facts):
                    hook = partial(_added, statistic, sums[stat], module)
                    hooks.callback(layer.get_submodule(module).register_forward_hook(hook).remove)
                if statistic.watches_attention():
                    see = partial(statistic.add_attention, sums[stat], weights=layer.get_parameter)
                    hooks.enter_context(observed_attention(layer.mixer, see))
                if statistic.watches_experts():
                    hook = partial(_routed, partial(statistic.add_experts, sums[stat]))
                    hooks.callback(layer.get_submodule(f"{layer.ffn_name}.experts").register_forward_pre_hook(hook).remove)
            yield
        values = {}
        for stat, statistic in stats.items():
            _check_finite(stat, index, *sums[stat].values())
            seen = Observed(sums.pop(stat), ids.numel(), layer.get_parameter, spec, facts)
            values[stat.text] = checked(stat, index, statistic.value(seen))
        if values:
            use(index, values)

    flows = [Flow(ids[start : start + batch].to(source.device)) for start in range(0, len(ids), batch)]
    push(source, flows, lambda layer: progress(layer + 1, last + 1, f"layer {layer}"), around=around, stop=last + 1)


@contextmanager
def observed_attention(attention: Any, see: Callable[[Attended], None]) -> Iterator[None]:
    """Call `see` with what an attention module of a hybrid model attends with and its output after each of its forwards,
    whatever its attention implementation and its sinks."""

    def observing(module: Any, config: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        output_BNHD, weights = attend(module, config, query, key, value, mask, **kwargs)
        scaling = kwargs.get("scaling")
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        see(Attended(query, key, value, output_BNHD, factor, kwargs.get("softcap")))
        return output_BNHD, weights

    cls, config = type(attention), Redirected(attention.config, observing)
    attention.__class__ = type(cls.__name__, (cls,), {"config": property(lambda _self: config)})
    try:
        yield
    finally:
        attention.__class__ = cls


def _routed(see: Callable[[Routed], None], experts: Any, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    def output(expert: int, hidden_TD: Tensor) -> Tensor:
        index_T1 = torch.full((len(hidden_TD), 1), expert, device=hidden_TD.device)
        # Not called: a call is observed.
        return experts.forward(hidden_TD, index_T1, torch.ones_like(hidden_TD[:, :1]))

    see(Routed(len(experts.down_proj), *inputs, output))


def check_streams(source: LayerSource, texts: Sequence[TokenBlocks], streams: int) -> None:
    """Raise LB346 if `streams` times the hidden states of these texts do not fit in memory."""
    tokens = sum(text.tokens for text in texts)
    room = room_for_streams(source)
    needed = streams * sum(stream_bytes(source, text.sequences, text.seq) for text in texts)
    if needed > room:
        raise fail(
            "LB346",
            f"statistics over {tokens} tokens would take {bytes_text(needed)} of hidden states; "
            f"{bytes_text(int(room))} are free for them",
            help=f"measure on at most {int(texts[0].tokens * room / needed)} tokens",
        )


def _added(
    statistic: Statistic, sums: dict[str, Tensor], name: str, _module: nn.Module, inputs: Any, output: Tensor
) -> None:
    statistic.add(sums, name, inputs[0], output)


def checked(stat: Stat, layer: int, value: Tensor) -> Tensor:
    """A statistic as it is stored. Raises LB475 for another shape than is named, LB306 for values that are not finite."""
    value = value.detach().to("cpu", torch.float32).contiguous()
    if tuple(value.shape) != stat.dims:
        raise fail("LB475", f"{stat.text} of layer {layer} is {list(value.shape)}, and its action needs {list(stat.dims)}")
    _check_finite(stat, layer, value)
    return value


def _check_finite(stat: Stat, layer: int, *values: Tensor) -> None:
    if not all(bool(value.isfinite().all()) for value in values):
        raise fail(
            "LB306",
            f"{stat.text} of layer {layer} is NaN or infinite",
            help="try `--dtype float32`: float16 overflows in many models",
        )


def value_digest(value: Tensor) -> str:
    """sha256 of a statistic's numbers."""
    return hashlib.sha256(value.numpy().tobytes()).hexdigest()


def _path(folder: Path, fingerprint: str, stat: Stat, layer: int) -> Path:
    named = digest_text(f"{stat.text} {statistic_of(stat).version}")
    return STATISTICS.path(folder, f"{fingerprint[:32]}/{named[:32]}/{layer}.safetensors")


def kept_values(folder: Path, fingerprint: str, layer: int, stats: Sequence[Stat]) -> dict[str, Tensor]:
    """The cached statistics of one layer; a damaged file counts as missing, and its statistic is collected again."""
    found = {}
    for stat in stats:
        with suppress(OSError, SafetensorError, ValueError):
            path = _path(folder, fingerprint, stat, layer)
            if path.stat().st_size <= 4 * math.prod(stat.dims) + 2**16:
                value = load(read_entry(path)).get("value")
                if (
                    value is not None
                    and value.dtype == torch.float32
                    and tuple(value.shape) == stat.dims
                    and bool(value.isfinite().all())
                ):
                    found[stat.text] = value
    return found


def keep_value(folder: Path, fingerprint: str, layer: int, stat: Stat, value: Tensor) -> None:
    """Save a statistic of one layer. Raises LbdslError LB448."""
    keep_in_cache(_path(folder, fingerprint, stat, layer), save({"value": value}, {"statistic": stat.text}))
