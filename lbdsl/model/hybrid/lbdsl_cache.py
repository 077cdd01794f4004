"""Caches of a hybrid model: one cache layer per decoder layer, holding only what that layer needs."""

from dataclasses import fields

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicCache, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPast

# The keyword of the cache in transformers' modeling code: `past_key_values`, renamed to `cache` in 5.24.
CACHE_NAME = "cache" if any(f.name == "cache" for f in fields(BaseModelOutputWithPast)) else "past_key_values"


class HybridCacheLayer(CacheLayerMixin):
    """Base class of the hybrid cache layers: counts the tokens seen and knows where each row's real tokens begin.

    `seen` is the number of columns (padding included) so far. `starts` is None when no row is padded, else the column
    of the first real token of each row. Both are Python integers, so only keys and values take tensor storage.
    """

    # Keeps transformers from taking the size of a full-attention mask from this layer.
    is_sliding = True
    is_croppable = True
    # It counts tokens in Python.
    is_compileable = False

    def __init__(self):
        super().__init__()
        self.seen = 0
        self.starts = None

    def get_seq_length(self):
        return self.seen

    def get_mask_sizes(self, query_length):
        return self.seen + query_length, 0

    def get_max_length(self):
        return -1

    def get_max_cache_shape(self):
        return -1

    def reset(self):
        self.keys = self.values = None
        self.is_initialized = False
        self.seen = 0
        self.starts = None

    def tensors(self):
        """The names of the attributes that hold state with the batch as first dimension."""
        return [name for name in ("keys", "values") if getattr(self, name) is not None]

    def reorder_cache(self, beam_idx):
        self._each_row(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_select_indices(self, indices):
        self._each_row(lambda state: state[indices.to(state.device), ...])

    def batch_repeat_interleave(self, repeats):
        self._each_row(lambda state: state.repeat_interleave(repeats, dim=0))

    def _each_row(self, change):
        """Apply `change` to everything with a batch dimension."""
        for name in self.tensors():
            setattr(self, name, change(getattr(self, name)))
        if self.starts is not None:
            self.starts = tuple(change(torch.tensor(self.starts)).tolist())

    def tokens_to_remove(self, amount):
        """Convert `crop`'s argument to a number of tokens to remove: negative means how many, positive the new length."""
        amount = int(amount)
        return min(self.seen, -amount) if amount <= 0 else max(0, self.seen - amount)

    def check_crop(self, amount):
        """Raise ValueError if `crop` cannot remove that many tokens."""


class NoCacheLayer(HybridCacheLayer):
    """The cache of a layer without attention: it stores nothing but counts tokens, so every layer reports the length."""

    def lazy_initialization(self, key_states, value_states):
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        raise ValueError("a layer without attention has nothing to cache")

    def advance(self, tokens):
        self.is_initialized = True
        self.seen += tokens

    def offload(self):
        return None

    def prefetch(self):
        return None

    def crop(self, amount):
        self.seen -= self.tokens_to_remove(amount)


class _OfOnePlan:
    """Mixin for transformers caches that have been given one cache layer of the right kind for each decoder layer."""

    lbdsl_specs = None

    def crop(self, amount):
        for layer in self.layers:
            if isinstance(layer, HybridCacheLayer):
                layer.check_crop(amount)
        super().crop(amount)


class HybridCache(_OfOnePlan, DynamicCache):
    """A DynamicCache for the decoder layers of one plan."""


class HybridStaticCache(_OfOnePlan, StaticCache):
    """A StaticCache for the decoder layers of one plan: full-attention layers preallocate, others need less."""


_KINDS = {DynamicCache: HybridCache, StaticCache: HybridStaticCache}


def adopt_cache(cache, specs, make_layers, device):
    """Give an empty transformers cache the cache layers for these layer specifications, unless it already has them.

    `make_layers(reserved)` creates them; `reserved` is the length of a static cache, else None. Raises ValueError for a
    cache class that cannot hold them, and for a cache that another model has filled.
    """
    if isinstance(cache, _OfOnePlan) and cache.lbdsl_specs == specs:
        return
    kind = type(cache) if type(cache) in _KINDS.values() else _KINDS.get(type(cache))
    if kind is None:
        raise ValueError(
            "a hybrid model keeps its own caches: pass a DynamicCache, a StaticCache or none at all, not "
            f"{type(cache).__name__}"
        )
    if any(_filled(layer) for layer in cache.layers):
        raise ValueError("this cache was filled by another model; pass a fresh one")
    offloading = getattr(cache, "offloading", False)
    if offloading and device.type == "cpu":
        raise ValueError(
            "an offloaded cache moves keys and values from an accelerator to the CPU, and this model is on "
            "the CPU already; pass another cache"
        )
    reserved = max(layer.get_max_length() for layer in cache.layers) if kind is HybridStaticCache else None
    cache.__class__ = kind
    cache.layers = make_layers(reserved)
    cache.layer_class_to_replicate = None
    cache.lbdsl_specs = [dict(spec) for spec in specs]
    if offloading:
        # The others are small, and layers in between have none.
        cache.only_non_sliding = True
    if offloading and all(isinstance(layer, HybridCacheLayer) for layer in cache.layers):
        # Only the caches of full-attention layers are large enough to offload.
        cache.offloading = False


def _filled(layer):
    """Whether a cache layer of transformers holds anything; those with a state do not count tokens."""
    if hasattr(layer, "get_seq_length"):
        return int(layer.get_seq_length()) > 0
    state = layer.has_previous_state
    return any(state.values()) if isinstance(state, dict) else bool(state)


def cache_storage_bytes(cache):
    """Bytes of tensor storage that a cache holds, each storage counted once (not the sizes of views)."""
    storages = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                storages[storage.data_ptr(), storage.device] = storage.nbytes()
    return sum(size for (pointer, _), size in storages.items() if pointer)
