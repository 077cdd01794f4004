"""Attention with learned sinks: one number s for each query head, whose exp(s) is added to the softmax's denominator.

It is computed by any attention implementation: keys get one more column, of a key that only the sink's element of the
query sees, with a value of 0.

Source: gpt-oss (arXiv 2508.10925); `granite_swa` in transformers has the same parameter.
"""

import torch
from torch.nn.functional import pad

_ELEMENTS = 8
"""Elements added to each head, so that its size stays a multiple of 8; the first is the sink's."""


def with_sinks(sinks_H, config, query_BHQD, key_BGKD, value_BGKD, attention_mask, scaling):
    """Query, key, value and mask with the sinks. The output of attention is [B, Q, H, D + 8], of which D count."""
    size, (_, heads, queries, _) = query_BHQD.shape[-1], query_BHQD.shape
    keys = key_BGKD.shape[2]
    # A sink that has no effect may be too small for float16.
    exact = torch.promote_types(query_BHQD.dtype, torch.float32)
    logits_H = (sinks_H.to(exact) / scaling).clamp(min=torch.finfo(query_BHQD.dtype).min).to(query_BHQD.dtype)
    sink_BHQ1 = logits_H.view(1, heads, 1, 1).expand(query_BHQD.shape[0], heads, queries, 1)
    query = torch.cat([query_BHQD, sink_BHQ1], dim=-1)
    query = pad(query, (0, _ELEMENTS - 1))
    sink_key = torch.zeros_like(pad(key_BGKD[:, :, :1], (0, _ELEMENTS)))
    sink_key[..., size] = 1
    key = torch.cat([pad(key_BGKD, (0, _ELEMENTS)), sink_key], dim=2)
    value = pad(value_BGKD, (0, _ELEMENTS, 0, 1))
    if attention_mask is None and queries > 1:
        attention_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)[None, None]
        if config._attn_implementation != "sdpa":
            attention_mask = torch.where(attention_mask, 0.0, torch.finfo(query.dtype).min).to(query.dtype)
    if attention_mask is not None:
        attention_mask = pad(attention_mask, (0, 1), value=True if attention_mask.dtype == torch.bool else 0.0)
    return query, key, value, attention_mask
