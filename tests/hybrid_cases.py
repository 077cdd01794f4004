"""Tiny Llama models whose attention matters, plans for them, and references in stock transformers."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from lbdsl.families import FAMILIES
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME
from lbdsl.model.surgery import to_hybrid
from tests.specs import attention_layer, layer_of, window_of
from tests.tiny_model import tiny_llama

FULL = attention_layer(heads=4, kv_heads=2, head_dim=8, width=48)
NONE = layer_of(FULL, attention=False)


def swa(window: int, sinks: int = 0, full_heads: int = 0) -> dict:
    return layer_of(FULL, window, sinks, full_heads=full_heads)


def plans(w: int = 5, n: int = 3) -> dict[str, list[dict]]:
    """Four-layer plans: the shapes that break caches and masks when something is wrong."""
    return {
        "drop 0": [NONE, FULL, FULL, FULL],
        "swa 0": [swa(w, n), FULL, FULL, FULL],
        "drop + swa first": [NONE, swa(w, n), FULL, FULL],
        "full heads": [swa(w, n, 1), FULL, swa(2 * w, 0, 1), NONE],
        "full heads everywhere": [swa(w, n, 1), swa(w, 0, 1), swa(w, n, 1), swa(2 * w, n, 1)],
        "no full layer": [swa(w, n), NONE, swa(w, n), NONE],
        "two window sizes": [swa(w, n), FULL, swa(2 * w, 0), swa(w + 2, 1)],
        "all kept": [FULL] * 4,
    }


def tiny_base(seed: int = 0, positions: int = 2048) -> LlamaForCausalLM:
    """Four layers, GQA, weights scaled so that attention decides the logits."""
    sizes = {"vocab_size": 101, "intermediate_size": 48, "num_hidden_layers": 4, "max_position_embeddings": positions}
    return tiny_llama(seed, **sizes, initializer_range=0.3, eos_token_id=None).eval()


def hybrid_of(base, specs: list[dict]):
    import copy

    model = to_hybrid(copy.deepcopy(base))
    for index, spec in enumerate(specs):
        model.set_layer(index, spec)
    return model


def explicit_mask(real_BN: torch.Tensor, spec: dict) -> torch.Tensor:
    """Additive [B, H, N, N] mask written token by token, from the definition of a window; H is 1 if all heads see alike."""
    length = real_BN.shape[1]
    window = window_of(spec) or {"size": length, "sink_tokens": 0}
    full = window.get("full_heads", 0)
    if full:
        heads, each = spec["mixer"]["heads"], spec["mixer"]["heads"] // spec["mixer"]["kv_heads"]
        same = {name: value for name, value in window.items() if name != "full_heads"}
        other = explicit_mask(real_BN, {"mixer": {**spec["mixer"], "window": same}})
        whole = explicit_mask(real_BN, {"mixer": {**spec["mixer"], "window": None}})
        return torch.cat([whole] * (full * each) + [other] * (heads - full * each), dim=1)
    seen = []
    for real in real_BN.tolist():
        sinks = set([k for k in range(length) if real[k]][: window["sink_tokens"]])

        def sees(q: int, k: int, real: list[bool] = real, sinks: set[int] = sinks) -> bool:
            near = k > q - window["size"] or k in sinks
            return k <= q and ((near and real[k]) or k == q)

        seen.append([[sees(q, k) for k in range(length)] for q in range(length)])
    hidden_BNN = ~torch.tensor(seen)
    return torch.zeros(hidden_BNN.shape).masked_fill(hidden_BNN, torch.finfo(torch.float32).min)[:, None]


def gone(_module, _inputs, out):
    """In place of what a part gives, alone or with something that counts for nothing."""
    return (torch.zeros_like(out[0]), None) if isinstance(out, tuple) else torch.zeros_like(out)


@torch.no_grad()
def stock_logits(
    base, specs: list[dict], ids: torch.Tensor, real: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits of the stock model with explicit masks and hooks that take dropped attentions out; nothing of ours."""
    real = torch.ones_like(ids, dtype=torch.bool) if real is None else real.bool()
    handles = []
    for layer, spec in zip(base.model.layers, specs, strict=True):
        if spec["ffn"] is None:
            ffn = layer.get_submodule(FAMILIES[base.config.model_type].ffn_name)
            handles.append(ffn.register_forward_hook(gone))
        attention = layer.linear_attn if hasattr(layer, "linear_attn") else layer.self_attn
        if spec["mixer"] is None:
            handles.append(attention.register_forward_hook(gone))
        else:
            of_attention = spec["mixer"]["kind"] == "attention"
            mask = explicit_mask(real, spec).to(base.dtype) if of_attention else real.to(base.dtype)
            handles.append(
                attention.register_forward_pre_hook(
                    lambda _m, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
                )
            )
    try:
        return base(input_ids=ids, position_ids=position_ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


def cache_of(outputs):
    return getattr(outputs, CACHE_NAME)


def assert_same_greedy(tokens: torch.Tensor, wanted: torch.Tensor, logits: torch.Tensor, tie: float = 1e-4) -> None:
    """Generated tokens (one row) equal others up to a place where the two best of `logits`, (steps, vocabulary) of the
    others, lie within `tie`: sums in another order round differently, and what follows a tie is another text."""
    for place, (one, other) in enumerate(zip(tokens.tolist(), wanted.tolist(), strict=True)):
        if one != other:
            best = logits[place].max()
            assert best - logits[place, one] < tie, (place, one, other)
            return


def cached_logits(model, ids, chunk: int, mask=None) -> torch.Tensor:
    """Logits of a forward in chunks over a growing cache."""
    cache, parts = {}, []
    with torch.no_grad():
        for start in range(0, ids.shape[1], chunk):
            seen = None if mask is None else mask[:, : start + chunk]
            out = model(input_ids=ids[:, start : start + chunk], attention_mask=seen, use_cache=True, **cache)
            cache = {CACHE_NAME: cache_of(out)}
            parts.append(out.logits)
    return torch.cat(parts, dim=1)
