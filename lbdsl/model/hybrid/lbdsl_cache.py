"""Caches of a hybrid model: one layer object a decoder layer, holding only what that layer needs."""

from dataclasses import fields

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicCache, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPast

# The keyword of the cache in transformers' modeling code: `past_key_values`, renamed to `cache` in 5.24.
CACHE_NAME = "cache" if any(f.name == "cache" for f in fields(BaseModelOutputWithPast)) else "past_key_values"


class HybridCacheLayer(CacheLayerMixin):
    """Base of our cache layers: counts the tokens seen and knows where each row's real tokens begin.

    `seen` is the number of columns (padding included) so far. `starts` is None when no row is padded, else one
    column a row: that of its first real token. Both are plain integers: nothing but keys and values takes storage.
    """

    # Never the layer that transformers sizes a full-attention mask by.
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
        """Change the batch dimension of everything that has one."""
        for name in self.tensors():
            setattr(self, name, change(getattr(self, name)))
        if self.starts is not None:
            self.starts = tuple(change(torch.tensor(self.starts)).tolist())

    def tokens_to_remove(self, amount):
        """`crop`'s argument as a count: negative is how many to remove, positive the length to keep."""
        amount = int(amount)
        return min(self.seen, -amount) if amount <= 0 else max(0, self.seen - amount)

    def check_crop(self, amount):
        """ValueError when `crop` cannot go back that far."""


class NoCacheLayer(HybridCacheLayer):
    """The cache of a layer without attention: it holds nothing, and counts, so that any layer tells the length."""

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
    """What a cache of transformers is turned into: one layer object of the right kind for each decoder layer."""

    lbdsl_specs = None

    def crop(self, amount):
        for layer in self.layers:
            if isinstance(layer, HybridCacheLayer):
                layer.check_crop(amount)
        super().crop(amount)


class HybridCache(_OfOnePlan, DynamicCache):
    """A DynamicCache for the decoder layers of one plan."""


class HybridStaticCache(_OfOnePlan, StaticCache):
    """A StaticCache for the decoder layers of one plan: full layers reserve their space at once, others need less."""


_KINDS = {DynamicCache: HybridCache, StaticCache: HybridStaticCache}


def adopt_cache(cache, specs, make_layers, device):
    """Give a fresh cache of transformers the layers that a model of these specifications needs; one that has them stays.

    `make_layers(reserved)` makes them; `reserved` is the length of a static cache, else None. ValueError for a kind of
    cache that cannot hold them, and for one that another model has filled.
    """
    if isinstance(cache, _OfOnePlan) and cache.lbdsl_specs == specs:
        return
    kind = type(cache) if type(cache) in _KINDS.values() else _KINDS.get(type(cache))
    if kind is None:
        raise ValueError(
            "a hybrid model keeps its own caches: pass a DynamicCache, a StaticCache or none at all, not "
            f"{type(cache).__name__}"
        )
    if any(int(layer.get_seq_length()) for layer in cache.layers):
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
    if offloading and all(isinstance(layer, HybridCacheLayer) for layer in cache.layers):
        # Only full layers are worth moving.
        cache.offloading = False


def cache_storage_bytes(cache):
    """Bytes of storage that a cache really holds (not the bytes that its views show), each storage once."""
    storages = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                storages[storage.data_ptr(), storage.device] = storage.nbytes()
    return sum(size for (pointer, _), size in storages.items() if pointer)
