"""A tiny model in which every layer matters, its text, and the naive way to measure: full forward passes, in fp64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lbdsl.cost.facts import ModelFacts
from lbdsl.data.blocks import TokenBlocks
from lbdsl.data.split import TextPart
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.attention import Window
from tests.specs import attention_layer, layer_of

LAYERS, VOCAB = 4, 97
BASE = attention_layer(heads=4, kv_heads=2, head_dim=12, width=80)


def tiny_layer(**changes) -> LayerSpec:
    """A layer of the tiny model, changed as in `tests.specs.layer_of`."""
    return LayerSpec.model_validate(layer_of(BASE, **changes))


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def facts_of(model: LlamaForCausalLM) -> ModelFacts:
    return ModelFacts(
        family="llama",
        architecture="LlamaForCausalLM",
        hidden=model.config.hidden_size,
        vocab=VOCAB,
        positions=256,
        tied=False,
        dtype="float32",
        layer_specs=(tiny_layer(),) * LAYERS,
    )


def text(sequences: int = 5, seq: int = 37, part: TextPart = TextPart.SCORE) -> TokenBlocks:
    generator = torch.Generator().manual_seed(sequences * 1000 + seq)
    ids = torch.randint(0, VOCAB, (sequences, seq), generator=generator)
    return TokenBlocks(ids, f"digest-{sequences}-{seq}-{part}", "test", 1, None)


def naive_logp(
    model: LlamaForCausalLM, ids_SN: Tensor, changes: Mapping[int, LayerSpec], dtype: torch.dtype = torch.float64
) -> Tensor:
    """Log-probabilities [S, N, V] of the stock model, layers changed from outside by hooks."""
    with ExitStack() as stack, torch.no_grad():
        for index, spec in changes.items():
            attention = model.model.layers[index].self_attn
            hook: Callable[..., object]
            if spec.mixer is None:
                hook = attention.register_forward_hook(lambda _m, _a, out: (torch.zeros_like(out[0]), *out[1:]))
            else:
                mask = window_mask(ids_SN.shape[1], spec.mixer.window)

                def use_mask(_module, args, kwargs, mask=mask):
                    return args, {**kwargs, "attention_mask": mask}

                hook = attention.register_forward_pre_hook(use_mask, with_kwargs=True)
            stack.callback(hook.remove)
        return torch.log_softmax(model(ids_SN).logits, dim=-1, dtype=dtype)


def window_mask(n: int, window: Window) -> Tensor:
    query, key = torch.arange(n)[:, None], torch.arange(n)[None, :]
    return ((key <= query) & ((key > query - window.size) | (key < window.sink_tokens)))[None, None]


def naive_scores(model: LlamaForCausalLM, ids_SN: Tensor, changes: Mapping[int, LayerSpec]) -> dict[str, Tensor]:
    """Per-token `nll` and `kl` of the changed model, and `base_nll`; each [S, N - 1]."""
    base, changed = (naive_logp(model, ids_SN, c)[:, :-1] for c in ({}, changes))
    target = ids_SN[:, 1:, None]
    base_nll = -base.gather(-1, target).squeeze(-1)
    return {
        "base_nll": base_nll,
        "nll": -changed.gather(-1, target).squeeze(-1) - base_nll,
        "kl": (base.exp() * (base - changed)).sum(-1),
    }


def naive_influence(model: LlamaForCausalLM, ids_SN: Tensor, index: int, whole: bool = False) -> Tensor:
    """1 - cosine of the stream before and after the attention sub-block of a layer, or the whole of it; [S, N]."""
    seen = {}
    block = model.model.layers[index]
    hooks = [
        block.register_forward_pre_hook(lambda _m, args: seen.setdefault("before", args[0])),
        block.register_forward_hook(lambda _m, _args, out: seen.update(after=out))
        if whole
        else block.post_attention_layernorm.register_forward_pre_hook(lambda _m, args: seen.setdefault("after", args[0])),
    ]
    # A pre-hook that returns a value replaces the input: by itself here.
    with torch.no_grad():
        model(ids_SN)
    for hook in hooks:
        hook.remove()
    return 1 - torch.cosine_similarity(seen["before"].double(), seen["after"].double(), dim=-1)


@contextmanager
def counting_layers(hybrid: Any) -> Iterator[list[int]]:
    """Within, the number of each layer that a hybrid model runs, in order."""
    run, ran = hybrid.model.run_layer, []

    def counted(layer, index, *rest):
        ran.append(index)
        return run(layer, index, *rest)

    hybrid.model.run_layer = counted
    try:
        yield ran
    finally:
        del hybrid.model.run_layer
