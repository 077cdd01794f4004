"""Taking statistics on the base, layer by layer, and keeping them: what new weights are made from beside the old ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from lbdsl.core.diagnostic import fail
from lbdsl.core.digest import digest_text
from lbdsl.core.files import replace_entry
from lbdsl.core.progress import Report
from lbdsl.core.units import bytes_text
from lbdsl.data.blocks import TokenBlocks
from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.layer.weights import Stat
from lbdsl.measure.flow import Flow, push
from lbdsl.measure.layer_source import LayerSource
from lbdsl.statistics import Statistic, statistic_of

LayerStatistics = Mapping[str, Tensor]
"""Of one layer, by the statistic's text: in float32, on the CPU."""

Wanted = Mapping[int, Sequence[Stat]]
"""The statistics of each layer."""

CAP = 2**31
"""Bytes that the statistics of one plan may take, on disk and in memory."""


class Statistics:
    """Statistics of layers, as they are on disk."""

    def __init__(self, values: Mapping[int, LayerStatistics] = MappingProxyType({})):
        self._values = values

    def __call__(self, layer: int) -> LayerStatistics:
        return self._values.get(layer, MappingProxyType({}))

    def digests(self, used: Wanted) -> dict[str, str]:
        """sha256 by the statistic's text over its values in the layers that use it; none of one that a layer lacks."""
        hashes: dict[str, Any] = {}
        missing: set[str] = set()
        for layer, stats in sorted(used.items()):
            for stat in stats:
                value = self(layer).get(stat.text)
                if value is None or tuple(value.shape) != stat.dims:
                    missing.add(stat.text)
                else:
                    hashes.setdefault(stat.text, hashlib.sha256()).update(f"{layer}:".encode() + value.numpy().tobytes())
        return {text: digest.hexdigest() for text, digest in sorted(hashes.items()) if text not in missing}


NO_STATISTICS = Statistics()


def take_statistics(
    source: Callable[[], LayerSource],
    facts: ModelFacts,
    wanted: Wanted,
    blocks: TokenBlocks,
    folder: Path,
    fingerprint: str,
    *,
    progress: Report | None = None,
    batch: int = 1,
) -> Statistics:
    """Take those of `wanted` that are not in `folder` yet, keep them there under `fingerprint`, and return all.

    `source` gives the base. Every layer is gone through once, with all of the text. Raises
    LbdslError: LB346 where they would take more than CAP, LB306 for a number that is none.
    """
    size = 4 * sum(_elements(stat) for stats in wanted.values() for stat in stats)
    if size > CAP:
        raise fail(
            "LB346",
            f"the statistics of this plan would take {bytes_text(size)}; at most {bytes_text(CAP)} are kept",
            help="use the action that needs them in fewer layers",
        )
    known = {text: _kept(folder, fingerprint, text) for text in _texts(wanted)}
    missing = {
        layer: [stat for stat in stats if not _fits(stat, known[stat.text].get(layer))]
        for layer, stats in sorted(wanted.items())
    }
    missing = {layer: stats for layer, stats in missing.items() if stats}
    if missing:

        def keep(layer: int, values: LayerStatistics) -> None:
            for text, value in values.items():
                known[text][layer] = value

        pass_over(source(), facts, missing, blocks, keep, progress=progress, batch=batch)
        for text in sorted(_texts(missing)):
            _keep(folder, fingerprint, text, known[text])
    return _only(wanted, known)


def kept_statistics(folder: Path, fingerprint: str, wanted: Wanted) -> Statistics:
    """Those of `wanted` that were taken before."""
    return _only(wanted, {text: _kept(folder, fingerprint, text) for text in _texts(wanted)})


def _texts(wanted: Wanted) -> set[str]:
    return {stat.text for stats in wanted.values() for stat in stats}


def _only(wanted: Wanted, known: Mapping[str, Mapping[int, Tensor]]) -> Statistics:
    return Statistics(
        {
            layer: {stat.text: known[stat.text][layer] for stat in stats if _fits(stat, known[stat.text].get(layer))}
            for layer, stats in wanted.items()
        }
    )


def pass_over(
    source: LayerSource,
    facts: ModelFacts,
    wanted: Wanted,
    blocks: TokenBlocks,
    use: Callable[[int, LayerStatistics], None],
    *,
    progress: Report | None = None,
    batch: int = 1,
) -> None:
    """Go through the layers of `source` once with all of the text, up to the last of `wanted`; `use` gets the statistics of
    a layer when the text is through it. Only that layer's are in memory: what an action needs that writes weights (a Gram
    matrix) need not be small. `source` may be a changed model, of a base with `facts`. Raises LbdslError LB306 for a number
    that is none.
    """
    last = max(wanted)
    ids = blocks.ids

    @contextmanager
    def around(index: int, layer: nn.Module) -> Iterator[None]:
        stats = {stat: statistic_of(stat) for stat in wanted.get(index, ())}
        spec = LayerSpec.model_validate(source.hybrid.config.lbdsl["layers"][index])
        sums: dict[Stat, dict[str, Tensor]] = {stat: {} for stat in stats}
        with ExitStack() as hooks:
            for stat, statistic in stats.items():
                for module in statistic.watched(spec, facts):
                    hook = _adding(statistic, sums[stat], module)
                    hooks.callback(layer.get_submodule(module).register_forward_hook(hook).remove)
            yield
        if stats:
            values = {
                stat.text: _checked(stat, index, statistic.value(sums[stat], ids.numel(), layer.get_parameter, spec, facts))
                for stat, statistic in stats.items()
            }
            use(index, values)

    def done(layer: int) -> None:
        if progress is not None:
            progress(layer + 1, last + 1, f"layer {layer}")

    flows = [Flow(ids[start : start + batch].to(source.device)) for start in range(0, len(ids), batch)]
    push(source, flows, done, around=around, stop=last + 1)


def _adding(statistic: Statistic, sums: dict[str, Tensor], module: str) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        statistic.add(sums, module, inputs[0].flatten(0, -2), output.flatten(0, -2))

    return hook


def _checked(stat: Stat, layer: int, value: Tensor) -> Tensor:
    value = value.detach().to("cpu", torch.float32).contiguous()
    if tuple(value.shape) != stat.dims:
        raise fail("LB475", f"{stat.text} of layer {layer} is {list(value.shape)}, and its action needs {list(stat.dims)}")
    if not _finite(value):
        raise fail(
            "LB306",
            f"{stat.text} of layer {layer} is not a number",
            help="try `--dtype float32`: float16 overflows in many models",
        )
    return value


def _fits(stat: Stat, value: Tensor | None) -> bool:
    """Whether a kept value can be what was kept: a damaged file is as good as none."""
    return value is not None and value.dtype == torch.float32 and tuple(value.shape) == stat.dims and _finite(value)


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _elements(stat: Stat) -> int:
    return torch.Size(stat.dims).numel()


def _path(folder: Path, fingerprint: str, text: str) -> Path:
    return folder / "statistics" / fingerprint[:32] / f"{digest_text(text)[:32]}.safetensors"


def _kept(folder: Path, fingerprint: str, text: str) -> dict[int, Tensor]:
    """By layer; empty where there is no file, or one that is damaged and so taken again."""
    path = _path(folder, fingerprint, text)
    try:
        if path.stat().st_size > CAP + 2**20:
            return {}
        return {int(name): tensor for name, tensor in load(path.read_bytes()).items()}
    except (OSError, SafetensorError, ValueError):
        return {}


def _keep(folder: Path, fingerprint: str, text: str, values: Mapping[int, Tensor]) -> None:
    data = save({str(layer): tensor for layer, tensor in values.items()}, {"statistic": text, "fingerprint": fingerprint})
    path = _path(folder, fingerprint, text)
    try:
        replace_entry(path, data)
    except OSError as problem:
        raise fail(
            "LB448", f"{path} cannot be written: {problem.strerror}", help="choose another folder with --cache-dir"
        ) from None
