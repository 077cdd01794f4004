"""Softmax attention over the last `window` tokens and linear attention over all tokens before, under one normalization:

    y_t = (g sum_i exp(s_ti - c_t) v_i + phi_q(q_t) S_t) / (g sum_i exp(s_ti - c_t) + phi_q(q_t) z_t)

with i over the window, s the scaled scores, c_t the largest of them, g = exp(a) times a constant, a learned for each query
head, and S_t, z_t the sums of phi_k(k_i) v_i^T and of phi_k(k_i) over all tokens that have left the window. Maps that tell
no tokens apart give each 2 / D with hedgehog and D with elu: by the constant each begins with 2 / D of 1/64 of the weight
that the highest score in the window has.
With a learned sink b for each query head, c_t is the largest of the scores and b, and the sum below the line has
g exp(b - c_t) more. Many tokens are computed in chunks, by products of matrices alone; one token adds what leaves the
window to the state and reads it. Sums are in float32 at least.

Source: LoLCATs (arXiv 2410.10254); chunks, arXiv 2312.06635.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import elu, pad

from .lbdsl_cache import HybridCacheLayer
from .lbdsl_layers import config_with
from .lbdsl_redirect import redirect

CHUNK = 64
SEGMENT = 2048
"""So many queries at a time: what is held beside the states does not grow with the length."""
GAIN = 64.0
_WATCHED: list = []


class Mask:
    """real_BK: bool [B, K], or None if all columns are real tokens. segments_BQ: the packed sequence of each token, or
    None."""

    def __init__(self, real_BK, segments_BQ):
        self.real_BK = real_BK
        self.segments_BQ = segments_BQ


class LinearLayer(HybridCacheLayer):
    """Keys and values of the last `window` tokens, [B, Hkv, min(seen, window), D], and the state, [B, Hkv, F, D + 1]: its
    last column is z."""

    def __init__(self, window):
        super().__init__()
        self.window = window
        self.state = None

    def lazy_initialization(self, key_states, value_states):
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Store the new tokens; return the keys, with itself, and the values of the window before them and of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = torch.cat([self.keys, key_states], dim=2), torch.cat([self.values, value_states], dim=2)
        self.seen += key_states.shape[2]
        # A copy: a view would hold all of them.
        self.keys, self.values = (states[:, :, -self.window :].clone() for states in (keys, values))
        return (keys, self), values

    def tensors(self):
        return [*super().tensors(), *(("state",) if self.state is not None else ())]

    def reset(self):
        super().reset()
        self.state = None

    @property
    def is_croppable(self):
        return self.seen <= self.window

    def check_crop(self, amount):
        removed = self.tokens_to_remove(amount)
        if removed and self.seen > self.window:
            raise ValueError(f"cannot go back {removed} tokens: what left the window of {self.window} is in the state")

    def crop(self, amount):
        self.check_crop(amount)
        self.seen -= self.tokens_to_remove(amount)
        self.keys, self.values = (states[:, :, : self.seen].clone() for states in (self.keys, self.values))


def linear_attention(module, config, query_BHQD, keys, values_BGKD, mask, scaling=None, **kwargs):
    """As an attention implementation of transformers: the output is [B, Q, H, D]. `keys` are those of the columns before
    and the new tokens, with the cache layer where there is one."""
    key_BGKD, cache = keys if isinstance(keys, tuple) else (keys, None)
    # Products of matrices stay as exact as the sums.
    with torch.autocast(query_BHQD.device.type, enabled=False):
        return _attend(module, query_BHQD, key_BGKD, values_BGKD, mask, scaling, cache), None


def _attend(module, query_BHQD, key_BGKD, values_BGKD, mask, scaling, cache):
    Q, K = query_BHQD.shape[2], key_BGKD.shape[2]
    real_BK = None if mask is None or mask.real_BK is None else mask.real_BK[:, -K:]
    segments_BQ = None if mask is None else mask.segments_BQ
    state, outputs = None if cache is None else cache.state, []
    size = Q if segments_BQ is not None else SEGMENT
    for start in range(0, Q, size):
        last = K - Q + min(start + size, Q)
        columns = slice(max(0, K - Q + start - module.linear_window), last)
        key, value = (states[:, :, columns] for states in (key_BGKD, values_BGKD))
        real = None if real_BK is None else real_BK[:, columns]
        query = query_BHQD[:, :, start : start + size]
        output, state = _attend_segment(module, query, key, value, real, segments_BQ, scaling, state)
        outputs.append(output)
    if cache is not None:
        cache.state = state
    return torch.cat(outputs, dim=1)


def _attend_segment(module, query_BHQD, key_BGKD, values_BGKD, real_BK, segments_BQ, scaling, state):
    """The output, [B, Q, H, D], and the state after it. The columns begin at most a window before the first query."""
    exact = torch.promote_types(query_BHQD.dtype, torch.float32)
    query, key, value = (states.to(exact) for states in (query_BHQD, key_BGKD, values_BGKD))
    B, H, Q, D = query.shape
    G, K = key.shape[1:3]
    window, before = min(module.linear_window, K), K - Q
    scaling = D**-0.5 if scaling is None else scaling
    query_BGRQD = query.reshape(B, G, H // G, Q, D)
    value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
    constant = GAIN * (D * D / 2 if module.linear_features == "elu" else 1)
    gain_GR11 = constant * module.window_gain.to(exact).exp().view(G, H // G, 1, 1)
    sinks = getattr(module, "sinks", None)
    sink_GR11 = None if sinks is None else sinks.to(exact).view(G, H // G, 1, 1)
    if segments_BQ is not None:
        same_BQK = segments_BQ[:, :, None] == segments_BQ[:, None]
        near, far = _all_pairs(module, query_BGRQD, key, value, same_BQK, window, scaling, sink_GR11)
    else:
        near = _in_window(query_BGRQD, key, value, real_BK, window, scaling, before, sink_GR11)
        far, state = _beyond(module, query_BGRQD, key, value, real_BK, window, before, state)
    near = gain_GR11 * near
    both = near + far
    if _WATCHED and window < K:
        _note(module.layer_idx, near[..., window - K :, :D], far[..., window - K :, :D])
    output = both[..., :D] / both[..., D:]
    return output.reshape(B, H, Q, D).transpose(1, 2).to(query_BHQD.dtype), state


def _note(layer, near, far):
    """Add the share of the output's size that is from before the window, over the tokens that have something there."""
    sizes = [states.norm(dim=-1) for states in (near, far)]
    has = sizes[1] > 0
    share = (sizes[1] / sum(sizes))[has]
    for shares in _WATCHED:
        total, count = shares.get(layer, (0.0, 0))
        shares[layer] = total + float(share.sum()), count + share.numel()


def _features(module, x, heads):
    """[B, G, .., N, F]: the feature maps of queries [B, G, R, N, D] or keys [B, G, N, D]."""
    if module.linear_features == "elu":
        return 1 + elu(x)
    D = x.shape[-1]
    matrix = getattr(module, heads).to(x.dtype).view(*x.shape[1:-2], D, D)
    x = x + x @ matrix
    return torch.cat([x.softmax(dim=-1), (-x).softmax(dim=-1)], dim=-1)


def _sum(score, allowed, value, sink):
    """[.., D + 1]: the sum of the values, whose last column is 1, by exp(score - c), where it is allowed, and of what the
    sinks add to the last column."""
    score = score.masked_fill(~allowed, -torch.inf)
    largest = score.amax(dim=-1, keepdim=True)
    if sink is None:
        return (score - largest).exp() @ value
    largest = torch.maximum(largest, sink)
    found = (score - largest).exp() @ value
    return torch.cat([found[..., :-1], found[..., -1:] + (sink - largest).exp()], dim=-1)


def _in_window(query_BGRQD, key, value, real_BK, window, scaling, before, sink_GR11):
    """[B, G, R, Q, D + 1]: the sum over each query's window, in blocks of queries."""
    B, G, R, Q, D = query_BGRQD.shape
    block = min(Q, max(window, CHUNK))
    blocks = -(-Q // block)
    left, right = window - 1 - before, blocks * block - Q
    # Column e of the padded keys is seen by the queries e - window + 1 to e.
    key, value = (pad(states, (0, 0, max(0, left), right)) for states in (key, value))
    own = torch.ones(1, Q + before, dtype=torch.bool, device=key.device) if real_BK is None else real_BK
    own = pad(own, (max(0, left), right))
    if left < 0:
        key, value, own = key[:, :, -left:], value[:, :, -left:], own[:, -left:]
    size = block + window - 1
    key, value = (states.unfold(2, size, block).transpose(-1, -2) for states in (key, value))  # [B, G, N, size, D]
    own_BNS = own.unfold(1, size, block)
    query = pad(query_BGRQD, (0, 0, 0, right)).view(B, G, R, blocks, block, D)
    score = query @ key.unsqueeze(2).transpose(-1, -2) * scaling
    row, column = torch.arange(block, device=key.device)[:, None], torch.arange(size, device=key.device)
    band = (column >= row) & (column < row + window)
    # A query of padding sees itself.
    allowed = band & (own_BNS[:, None, None, :, None] | (column == row + window - 1))
    found = _sum(score, allowed, value.unsqueeze(2), None if sink_GR11 is None else sink_GR11.unsqueeze(-1))
    return found.reshape(B, G, R, blocks * block, D + 1)[..., :Q, :]


def _beyond(module, query_BGRQD, key, value, real_BK, window, before, state):
    """[B, G, R, Q, D + 1]: the sum over what has left each query's window; and the new state."""
    queries = query_BGRQD.shape[-2]
    leaving = before + queries - window
    if leaving <= 0:
        # The maps have gradients of zero: a process that trains with others waits for one.
        maps = [getattr(module, name) for name in ("query_features", "key_features") if hasattr(module, name)]
        return sum((0 * matrix.to(key.dtype).sum() for matrix in maps), key.new_zeros(())), state
    # Query `first` + i sees the columns up to i.
    first = queries - leaving
    query = _features(module, query_BGRQD[..., first:, :], "query_features")
    key = _features(module, key[:, :, :leaving], "key_features")
    if real_BK is not None:
        key = key * real_BK[:, None, :leaving, None]
    size = min(CHUNK, leaving)
    rest = -leaving % size
    query_N, key_N, value_N = (
        pad(states, (0, 0, 0, rest)).unflatten(-2, (-1, size)) for states in (query, key, value[:, :, :leaving])
    )
    added = key_N.transpose(-1, -2) @ value_N  # [B, G, N, F, D + 1]
    start = torch.zeros_like(added[:, :, 0]) if state is None else state.to(added.dtype)
    sums = start.unsqueeze(2) + added.cumsum(2)
    states_N = torch.cat([start.unsqueeze(2), sums[:, :, :-1]], dim=2).unsqueeze(2)
    inside = (query_N @ key_N.unsqueeze(2).transpose(-1, -2)).tril() @ value_N.unsqueeze(2)
    found = (query_N @ states_N + inside).flatten(-3, -2)[..., :leaving, :]
    return pad(found, (0, 0, first, 0)), sums[:, :, -1].clone()


def _all_pairs(module, query_BGRQD, key, value, same_BQK, window, scaling, sink_GR11):
    """The two sums of packed sequences, each of which sees itself alone: by all pairs of tokens."""
    column = torch.arange(key.shape[2], device=key.device)
    apart = column[:, None] - column
    same = same_BQK[:, None, None]
    key, value = key.unsqueeze(2), value.unsqueeze(2)
    score = query_BGRQD @ key.transpose(-1, -2) * scaling
    near = _sum(score, same & (apart >= 0) & (apart < window), value, sink_GR11)
    query = _features(module, query_BGRQD, "query_features")
    both = query @ _features(module, key.squeeze(2), "key_features").unsqueeze(2).transpose(-1, -2)
    return near, (both * (same & (apart >= window))) @ value


class LinearPart:
    """The family's attention, whose function is `linear_attention`."""

    FIELDS = ("heads", "kv_heads", "head_dim", "window", "features", "sink_logits")
    MASK_FIELDS = ()

    def build(self, attention_class, config, layer_idx, part):
        heads, kv_heads, size = part["heads"], part["kv_heads"], part["head_dim"]
        sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": size}
        module = attention_class(config=config_with(config, sizes), layer_idx=layer_idx)
        module.config = config
        module.linear_window, module.linear_features = part["window"], part["features"]
        module.window_gain = nn.Parameter(torch.zeros(heads))
        if part["sink_logits"]:
            module.sinks = nn.Parameter(torch.zeros(heads))
        if part["features"] == "hedgehog":
            module.query_features = nn.Parameter(torch.zeros(heads * size * size))
            module.key_features = nn.Parameter(torch.zeros(kv_heads * size * size))
        return redirect(module, linear_attention)

    def make_cache(self, config, layer_idx, part, reserved):
        return LinearLayer(part["window"])

    @contextmanager
    def watch(self):
        """By layer, the sum of the shares of outputs that are from before the window, and their count."""
        shares = {}
        _WATCHED.append(shares)
        try:
            yield shares
        finally:
            _WATCHED.pop()

    def make_mask(self, context, part):
        if context.attention_mask is not None and context.attention_mask.dim() == 4:
            raise ValueError("a 4-D attention_mask does not say which tokens are real; give linear attention a 2-D one")
        return Mask(context.real_BK, context.segments_BQ)


PART = LinearPart()
