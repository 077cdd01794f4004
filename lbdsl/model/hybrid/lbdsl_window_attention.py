"""Causal attention over the last `window` tokens, the token itself included, and the row's first `sinks` real tokens.

The cache is a ring buffer that stores exactly min(tokens, window + sinks) tokens. Keys are stored after RoPE, and softmax
does not depend on their order, so nothing is ever rolled. With w = window, n = sinks, and "column" c the index of a token
in the padded batch:

  up to w + n tokens     column c is in slot c;
  beyond                 column c >= n is in slot n + (c - n) mod w, and slots 0 .. n-1 are for sinks: before a column
                         that is a sink of some row is overwritten, that row copies it to slot c mod n.
                         In rows without padding the sinks are columns 0 .. n-1 and are already there.

Sources: sliding windows, Longformer (arXiv 2004.05150); sinks, StreamingLLM (arXiv 2309.17453).
"""

import torch

from .lbdsl_band_attention import Band, attend_in_bands, worth_bands
from .lbdsl_cache import HybridCacheLayer
from .lbdsl_full_attention import make_full_mask
from .lbdsl_gpu_attention import attend_by_kernel, attend_single_tokens, kernels_for, single_tokens_pay, windows_pay
from .lbdsl_redirect import attend
from .lbdsl_sink_logits import with_sinks


def window_attention(module, config, query_BHQD, key_BGKD, value_BGKD, attention_mask, scaling=None, **kwargs):
    """As an attention implementation of transformers: the output is [B, Q, H, D]. `module.sinks`, [H], are learned sinks;
    the mask may be a `Band`."""
    size = query_BHQD.shape[-1]
    scaling = size**-0.5 if scaling is None else scaling
    states = query_BHQD, key_BGKD, value_BGKD, attention_mask
    sinks = getattr(module, "sinks", None)
    if isinstance(attention_mask, Band) and kwargs.get("softcap") is not None:
        # Bands have no cap on scores.
        column_N = torch.arange(key_BGKD.shape[2], device=key_BGKD.device)
        band = attention_mask
        allowed_1NN = visible(column_N, column_N[None], None, None, None, band.window, band.sinks)
        states = query_BHQD, key_BGKD, value_BGKD, allowed_1NN.unsqueeze(1)
    elif isinstance(attention_mask, Band):
        way = attend_in_bands if kernels_for(query_BHQD.device.type) is None else attend_by_kernel
        return way(*states, scaling, sinks), None
    if attention_mask is None and single_tokens_pay(config, query_BHQD, key_BGKD, **kwargs):
        return attend_single_tokens(*states[:3], scaling, sinks), None
    if sinks is not None and not module.own_sinks:
        states = with_sinks(sinks, config, *states, scaling)
    output, weights = attend(module, config, *states, scaling=scaling, **kwargs)
    return output[..., :size], weights


def make_window_mask(context, window, sinks):
    """The mask over the cached and new tokens: a query sees the last `window` tokens and the first `sinks` tokens. For
    many new tokens of rows without padding a `Band`, where the kernel of a GPU or bands on a CPU are faster."""
    if context.attention_mask is not None and context.attention_mask.dim() == 4:
        raise ValueError("a 4-D attention_mask does not say which tokens are real; give windowed layers a 2-D one")
    total = context.seen + context.queries
    if context.real_BK is not None and (context.queries > 1 or context.seen == 0):
        _check_sinks(context.real_BK, sinks)
    if context.seen == 0 and total <= window:
        return make_full_mask(context)
    if (
        context.seen == 0
        and context.real_BK is None
        and context.segments_BQ is None
        and context.config._attn_implementation == "sdpa"
        and not getattr(context.config, "attention_dropout", 0.0)
    ):
        on_cpu = context.device.type == "cpu"
        if windows_pay(context, window, sinks) or (on_cpu and worth_bands(total, window, sinks)):
            return Band(window, sinks)
    if context.cache is not None and context.queries == 1 and context.real_BK is None:
        # One token, no padding: the ring holds exactly what it may see.
        return None
    if context.cache is None or total <= window + sinks:
        columns, valid = torch.arange(total, device=context.device).unsqueeze(0), None
    elif context.queries == 1:
        columns, valid = ring_columns(total, window, sinks, context.starts, context.device)
    else:
        columns, valid = stored_columns(context.seen, window, sinks, context.starts, context.device)
        new = torch.arange(context.seen, total, device=context.device).expand(columns.shape[0], -1)
        columns = torch.cat([columns, new], dim=1)
        valid = None if valid is None else torch.cat([valid, torch.ones_like(new, dtype=torch.bool)], dim=1)
    query_Q = torch.arange(context.seen, total, device=context.device)
    if context.segments_BQ is not None:
        return context.as_attention_mask(visible_packed(context.segments_BQ, window, sinks))
    allowed = visible(query_Q, columns, valid, context.real_BK, context.starts, window, sinks)
    return context.as_attention_mask(allowed)


def visible(query_Q, columns_BK, valid_BK, real_BC, starts, window, sinks):
    """bool [B or 1, Q, K]: which stored columns each query may see. `valid_BK` is False at unused slots.

    A query always sees itself, so that a padded row has at least one key.
    """
    q = query_Q.view(1, -1, 1)
    k = columns_BK.unsqueeze(1)
    start_B11 = _starts(starts, query_Q.device).view(-1, 1, 1)
    near = k > q - window
    sink = (k >= start_B11) & (k < start_B11 + sinks)
    allowed = (k <= q) & (near | sink)
    if real_BC is not None:
        index = columns_BK.expand(real_BC.shape[0], -1).clamp(0, real_BC.shape[1] - 1)
        allowed = allowed & real_BC.gather(1, index).unsqueeze(1)
    if valid_BK is not None:
        allowed = allowed & valid_BK.unsqueeze(1)
    own = k == q
    if valid_BK is not None:
        own = own & valid_BK.unsqueeze(1)
    return allowed | own


def visible_packed(segments_BN, window, sinks):
    """bool [B or 1, N, N] for rows of packed sequences: each sequence sees only itself and has its own sinks."""
    column_N = torch.arange(segments_BN.shape[1], device=segments_BN.device)
    q, k = column_N.view(1, -1, 1), column_N.view(1, 1, -1)
    same = segments_BN.unsqueeze(2) == segments_BN.unsqueeze(1)
    first_B1N = segments_BN.unsqueeze(1) != torch.nn.functional.pad(segments_BN[:, :-1], (1, 0), value=-1).unsqueeze(1)
    start_B1N = torch.where(first_B1N, k, 0).cummax(dim=-1).values
    return (k <= q) & same & ((k > q - window) | (k < start_B1N + sinks))


def stored_columns(seen, window, sinks, starts, device):
    """Columns of the slots after `seen` tokens, whether the ring is full or not, and which are valid (None: all)."""
    if seen <= window + sinks:
        return torch.arange(seen, device=device).unsqueeze(0), None
    return ring_columns(seen, window, sinks, starts, device)


def ring_columns(seen, window, sinks, starts, device):
    """Columns [B or 1, sinks + window] of a full ring after `seen` >= window + sinks tokens, and which are valid.

    Sink slot j is valid once the row's sink with column = j mod sinks has left the ring.
    """
    slots = torch.arange(window, device=device)
    ring = seen - 1 - (seen - 1 - sinks - slots) % window
    start_B1 = _starts(starts, device).view(-1, 1)
    ring = ring.expand(start_B1.shape[0], -1)
    if sinks == 0:
        return ring, None
    sink = start_B1 + (torch.arange(sinks, device=device) - start_B1) % sinks
    columns = torch.cat([sink, ring], dim=1)
    gone = sink <= seen - 1 - window
    return columns, torch.cat([gone, torch.ones_like(ring, dtype=torch.bool)], dim=1)


class RingLayer(HybridCacheLayer):
    """Keys and values of a windowed layer, [B, Hkv, min(seen, window + sinks), D]; see the docstring of this file."""

    def __init__(self, window, sinks):
        super().__init__()
        self.window = window
        self.sinks = sinks

    @property
    def capacity(self):
        return self.window + self.sinks

    def lazy_initialization(self, key_states, value_states):
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty((*key_states.shape[:2], 0, key_states.shape[3]))
        self.values = value_states.new_empty((*value_states.shape[:2], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Store the new tokens; return the keys and values that this forward attends over, in the order of the mask:
        the ring after a single token, else the old slots followed by the new tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[2]
        before, self.seen = self.seen, self.seen + new
        if new == 1 and before >= self.capacity:
            self.keys = self._put(self.keys, key_states, before)
            self.values = self._put(self.values, value_states, before)
            return self.keys, self.values
        keys = torch.cat([self.keys, key_states], dim=2)
        values = torch.cat([self.values, value_states], dim=2)
        if self.seen <= self.capacity:
            self.keys, self.values = keys, values
        else:
            index = self._kept(before, keys.device)
            self.keys, self.values = _gathered(keys, index), _gathered(values, index)
        return keys, values

    def _put(self, ring, token, column):
        """Overwrite the oldest token with a new one; if that is a sink, it is first copied to its sink slot."""
        slot = self.sinks + (column - self.sinks) % self.window
        if ring.requires_grad or token.requires_grad or (ring.is_inference() and not torch.is_inference_mode_enabled()):
            ring = ring.clone()
        if self.starts is not None and self.sinks:
            oldest = column - self.window
            for row, start in enumerate(self.starts):
                if start <= oldest < start + self.sinks:
                    ring[row, :, oldest % self.sinks] = ring[row, :, slot].clone()
        ring[:, :, slot] = token[:, :, 0]
        return ring

    def _kept(self, before, device):
        """[B or 1, capacity]: for each slot after this update, its index in the old slots followed by the new tokens."""
        old = min(before, self.capacity)
        columns, useful = ring_columns(self.seen, self.window, self.sinks, self.starts, device)
        if before <= self.capacity:
            # Old slots hold columns 0 .. before-1 in order, so a column is its own index.
            index = columns
        else:
            in_ring = self.sinks + (columns - self.sinks) % self.window
            # A sink that had left the ring before is in its sink slot.
            at_sink = torch.arange(columns.shape[1], device=device) % max(self.capacity, 1)
            from_old = torch.where(columns <= before - 1 - self.window, at_sink, in_ring)
            index = torch.where(columns >= before, old + columns - before, from_old)
        if useful is not None:
            index = torch.where(useful, index, torch.arange(columns.shape[1], device=device))
        return index

    @property
    def is_croppable(self):
        return self.seen <= self.capacity

    def check_crop(self, amount):
        removed = self.tokens_to_remove(amount)
        if removed and self.seen > self.capacity:
            raise ValueError(f"cannot go back {removed} tokens: tokens before the window of {self.window} are gone")

    def crop(self, amount):
        """Remove the newest tokens; possible only while no older token has been overwritten."""
        self.check_crop(amount)
        removed = self.tokens_to_remove(amount)
        if removed == 0:
            return
        self.seen -= removed
        self.keys = self.keys[:, :, : self.seen].clone()
        self.values = self.values[:, :, : self.seen].clone()


def _gathered(states, index):
    if index.shape[0] == 1:
        return states.index_select(2, index[0])
    return states.gather(2, index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))


def _starts(starts, device):
    return torch.tensor(starts if starts is not None else (0,), device=device)


def _check_sinks(real_BK, sinks):
    """Raise ValueError if a row has padding among its first `sinks` real tokens: sinks must be consecutive columns."""
    is_sink_BK = real_BK & (real_BK.cumsum(dim=1) <= sinks)
    gaps_BK = is_sink_BK[:, 1:] & ~is_sink_BK[:, :-1]
    split = gaps_BK.sum(dim=1) + is_sink_BK[:, 0] > 1
    if bool(split.any()):
        row = int(split.int().argmax())
        raise ValueError(f"row {row} has padding among its first {sinks} real tokens; pad on the left")
