"""Predict how vLLM lays out the KV cache of a changed model, and the cache size in its log.

    one group  if all layers have full attention, or all have the same window, whatever their KV heads: a block holds
               `block_size` tokens of every layer, without padding
    groups     else layers of one kind (window and KV heads) are divided into groups of equally many layers; all groups
               share one pool of blocks, and a block holds tokens of every layer of one group
    group size number of layers of the rarest kind; of the commonest kind if that has less than 1.5 times as many
    page       the bytes of one layer in a block, the same for all: `block_size` tokens of the layers with the most KV
               heads. If a kind's KV heads divide that number, its blocks hold more tokens; else the rest is wasted
    padding    slots of the groups that have no layer, and the wasted parts of pages
    capacity   blocks in the pool / blocks that one sequence of `max_model_len` tokens needs in the worst case *
               `max_model_len`. In the worst case a window's group also keeps all scheduled, unfinished tokens.

Source: vLLM 0.32, v1/core/kv_cache_utils.py (`get_kv_cache_groups`, `unify_kv_cache_spec_page_size`,
`_get_kv_cache_groups_uniform_page_size`, `get_kv_cache_capacity`) and v1/kv_cache_interface.py
(`SlidingWindowSpec.max_admission_blocks_per_request`), with the memory layouts of its CPU and FlashAttention back ends, in
which layers are stored one after another. Verified against vLLM's log. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lbdsl.cost.facts import ModelFacts
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.attention import Attention
from lbdsl.vllm.layers import module_heads

GIB = 2**30


@dataclass(frozen=True)
class Serving:
    """Engine settings. `max_model_len`, `block_size` and `batched_tokens` (`max_num_batched_tokens`) are in tokens;
    `batches` is how many are scheduled at once (2 with vLLM's default asynchronous scheduling); `memory` is in bytes.

    The defaults are those of `vllm serve` on a GPU; on a CPU the block size is 128, and one batch is scheduled at a time.
    """

    max_model_len: int
    block_size: int = 16
    batched_tokens: int = 2048
    batches: int = 2
    memory: int = GIB


class CacheKind(NamedTuple):
    """The properties by which vLLM groups attentions: window in tokens (None for full attention) and number of KV heads. A
    layer with full heads beside windowed ones has several."""

    window: int | None
    kv_heads: int


@dataclass(frozen=True)
class CacheGroup:
    """Layers that share blocks, and the number of KV heads of each; `window` in tokens, None for full attention."""

    window: int | None
    layers: tuple[int, ...]
    kv_heads: tuple[int, ...]


@dataclass(frozen=True)
class CacheLayout:
    """Groups of `size` slots each. `head_bytes` is the size of one token's key and value in one KV head, in bytes."""

    groups: tuple[CacheGroup, ...]
    size: int
    head_bytes: int

    @property
    def places(self) -> int:
        return self.size * len(self.groups)

    @property
    def padding(self) -> int:
        """Number of slots without a layer."""
        return self.places - sum(len(group.layers) for group in self.groups)

    @property
    def lost(self) -> float:
        """The fraction of the blocks' bytes that is wasted if every group has equally many blocks: slots without a layer,
        and pages that their layer does not fill."""
        filled = sum(heads * self._times(group) for group in self.groups for heads in group.kv_heads)
        whole = self._block_heads * len(self.groups)
        return 1 - filled / whole if whole else 0.0

    def block_tokens(self, group: CacheGroup, serving: Serving) -> int:
        """Number of tokens that a block of the group holds."""
        return serving.block_size * self._times(group)

    def block_bytes(self, serving: Serving) -> int:
        return self._block_heads * self.head_bytes * serving.block_size

    @property
    def _block_heads(self) -> int:
        """The size of a block, in KV heads of `block_size` tokens."""
        if len(self.groups) == 1:
            return sum(self.groups[0].kv_heads)
        return self.size * self._most

    @property
    def _most(self) -> int:
        return max((heads for group in self.groups for heads in group.kv_heads), default=0)

    def _times(self, group: CacheGroup) -> int:
        """Number of tokens in a block of the group, divided by `block_size`."""
        if len(self.groups) == 1 or self._most % group.kv_heads[0]:
            return 1
        return self._most // group.kv_heads[0]

    def capacity(self, serving: Serving) -> int:
        """Capacity in tokens, as in the log's "KV cache size"; 0 if no layer has a cache."""
        if not self.groups:
            return 0
        blocks = serving.memory // self.block_bytes(serving)
        needed = sum(self._worst_blocks(group, serving) for group in self.groups)
        return int(blocks / needed * serving.max_model_len)

    def held_bytes(self, tokens: int, serving: Serving) -> int:
        """Cache bytes that one sequence of `tokens` tokens holds while it decodes one token at a time."""
        alone = Serving(max(tokens, 1), serving.block_size, batched_tokens=1, batches=1)
        return sum(self._worst_blocks(group, alone) for group in self.groups) * self.block_bytes(serving)

    def _worst_blocks(self, group: CacheGroup, serving: Serving) -> int:
        """Maximum number of blocks that one sequence of `max_model_len` tokens needs in one group."""
        tokens = self.block_tokens(group, serving)
        if group.window is None:
            return -(-serving.max_model_len // tokens)
        in_flight = serving.batched_tokens * serving.batches
        kept = min(group.window - 1 + in_flight, serving.max_model_len)
        # A window need not start at a block boundary.
        return -(-kept // tokens) + 1

    def to_json(self, serving: Serving) -> dict[str, Any]:
        return {
            "groups": [
                {
                    "window": group.window,
                    "layers": list(group.layers),
                    "kv_heads": list(group.kv_heads),
                    "block_tokens": self.block_tokens(group, serving),
                }
                for group in self.groups
            ],
            "group_size": self.size,
            "padding": self.padding,
            "lost": self.lost,
            "head_bytes": self.head_bytes,
            "block_bytes": self.block_bytes(serving),
            "capacity_tokens": self.capacity(serving),
            "held_bytes": self.held_bytes(serving.max_model_len, serving),
        }


def cache_layout(kinds: Iterable[tuple[int, CacheKind]], head_bytes: int) -> CacheLayout:
    """The layout for the attentions of layers, each with the layer's index, in order."""
    kinds = list(kinds)
    layers_of: dict[CacheKind, list[int]] = {}
    for layer, kind in kinds:
        layers_of.setdefault(kind, []).append(layer)
    if not layers_of:
        return CacheLayout((), 0, head_bytes)
    windows = {kind.window for kind in layers_of}
    if len(windows) == 1:
        one = CacheGroup(windows.pop(), tuple(layer for layer, _ in kinds), tuple(kind.kv_heads for _, kind in kinds))
        return CacheLayout((one,), len(kinds), head_bytes)
    fewest, most = min(map(len, layers_of.values())), max(map(len, layers_of.values()))
    size = most if most < 1.5 * fewest else fewest
    groups = []
    for kind, layers in layers_of.items():
        count = -(-len(layers) // size)
        groups += [
            CacheGroup(kind.window, tuple(own), (kind.kv_heads,) * len(own))
            for own in (layers[first::count] for first in range(count))
        ]
    return CacheLayout(tuple(groups), size, head_bytes)


def layout_of_layers(specs: Iterable[LayerSpec], model: ModelFacts) -> CacheLayout:
    """The layout for the layers with softmax attention; all must have the same head size."""
    attentions = {i: spec.mixer for i, spec in enumerate(specs) if isinstance(spec.mixer, Attention)}
    modules = module_heads(mixer.model_dump() for mixer in attentions.values())
    kinds = [
        (i, CacheKind(mixer.window.size if windowed and mixer.window is not None else None, heads))
        for (i, mixer), layer in zip(attentions.items(), modules, strict=True)
        for windowed, heads in layer
    ]
    head_bytes = max((mixer.token_bytes(model) // mixer.kv_heads for mixer in attentions.values()), default=0)
    return cache_layout(kinds, head_bytes)
