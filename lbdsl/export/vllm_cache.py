"""How vLLM will lay out the KV cache of a changed model, and the number that its log will print.

    groups     layers of one kind (full, or one window) are cut into groups of equally many layers; all groups share one
               pool of blocks, and a block holds `block_size` tokens of every layer of one group
    group size the layers of the rarest kind; where the commonest kind has less than 1.5 times as many, the commonest's
    padding    places of the groups that have no layer: their bytes are lost
    capacity   blocks in the pool, over the blocks that one sequence of `max_model_len` tokens may need at worst, times
               `max_model_len`. At worst a window's group also keeps every token that is scheduled and not yet done.

Source: vLLM 0.32, v1/core/kv_cache_utils.py (`_get_kv_cache_groups_uniform_page_size`, `get_kv_cache_capacity`) and
v1/kv_cache_interface.py (`SlidingWindowSpec.max_admission_blocks_per_request`). Checked against its log. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lbdsl.layer.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.attention import Attention

GIB = 2**30


@dataclass(frozen=True)
class Serving:
    """Settings of the engine. `max_model_len`, `block_size` and `batched_tokens` (`max_num_batched_tokens`) in tokens;
    `batches` may be scheduled at once (2 with vLLM's asynchronous scheduling, its default); `memory` in bytes.

    The defaults are those of `vllm serve` on a GPU; on a CPU the block size is 128, and one batch is scheduled at a time.
    """

    max_model_len: int
    block_size: int = 16
    batched_tokens: int = 2048
    batches: int = 2
    memory: int = GIB

    @property
    def in_flight(self) -> int:
        return self.batched_tokens * self.batches


@dataclass(frozen=True)
class Group:
    """Layers that share their blocks; `window` in tokens, None for full attention."""

    window: int | None
    layers: tuple[int, ...]


@dataclass(frozen=True)
class CacheLayout:
    """Groups of `size` places each. `layer_bytes` is what one token takes in one layer: keys and values, in bytes."""

    groups: tuple[Group, ...]
    size: int
    layer_bytes: int

    @property
    def places(self) -> int:
        return self.size * len(self.groups)

    @property
    def padding(self) -> int:
        """Places without a layer."""
        return self.places - sum(len(group.layers) for group in self.groups)

    def block_bytes(self, serving: Serving) -> int:
        return self.size * self.layer_bytes * serving.block_size

    def capacity(self, serving: Serving) -> int:
        """Tokens, as in the log's "KV cache size"; 0 where no layer has a cache."""
        if not self.groups:
            return 0
        blocks = serving.memory // self.block_bytes(serving)
        needed = sum(_worst_blocks(group, serving) for group in self.groups)
        return int(blocks / needed * serving.max_model_len)

    def held_bytes(self, tokens: int, serving: Serving) -> int:
        """What one sequence of `tokens` tokens holds while it decodes one token at a time."""
        alone = Serving(max(tokens, 1), serving.block_size, batched_tokens=1, batches=1)
        return sum(_worst_blocks(group, alone) for group in self.groups) * self.block_bytes(serving)

    def to_json(self, serving: Serving) -> dict[str, Any]:
        return {
            "groups": [{"window": group.window, "layers": list(group.layers)} for group in self.groups],
            "group_size": self.size,
            "padding": self.padding,
            "layer_bytes": self.layer_bytes,
            "capacity_tokens": self.capacity(serving),
            "held_bytes": self.held_bytes(serving.max_model_len, serving),
        }


def cache_layout(windows: Mapping[int, int | None], layer_bytes: int) -> CacheLayout:
    """The layout for layers with a cache, by index: their window, None for full attention. Layers without attention
    are left out of `windows`."""
    kinds: dict[int | None, list[int]] = {}
    for layer in sorted(windows):
        kinds.setdefault(windows[layer], []).append(layer)
    if not kinds:
        return CacheLayout((), 0, layer_bytes)
    fewest, most = min(map(len, kinds.values())), max(map(len, kinds.values()))
    size = most if most < 1.5 * fewest else fewest
    groups = []
    for window, layers in kinds.items():
        count = -(-len(layers) // size)
        groups += [Group(window, tuple(layers[first::count])) for first in range(count)]
    return CacheLayout(tuple(groups), size, layer_bytes)


def layout_of_layers(specs: Iterable[LayerSpec], model: ModelFacts) -> CacheLayout:
    """The layout for layers with softmax attention, whose KV heads are alike."""
    attentions = {i: spec.mixer for i, spec in enumerate(specs) if isinstance(spec.mixer, Attention)}
    windows = {i: mixer.window.size if mixer.window is not None else None for i, mixer in attentions.items()}
    return cache_layout(windows, max((mixer.token_bytes(model) for mixer in attentions.values()), default=0))


def _worst_blocks(group: Group, serving: Serving) -> int:
    """Blocks that one sequence of `max_model_len` tokens may need in one group."""
    if group.window is None:
        return -(-serving.max_model_len // serving.block_size)
    kept = min(group.window - 1 + serving.in_flight, serving.max_model_len)
    # A window need not begin where a block does.
    return -(-kept // serving.block_size) + 1
