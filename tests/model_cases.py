"""Tiny real models on disk, for tests of inspection, loading and everything after them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def llama_config(**changes: Any):
    """Three layers, 4 query and 2 KV heads of 8."""
    from transformers import LlamaConfig

    values = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**{**values, **changes})


def tiny_llama(*, dtype: str = "float32", seed: int = 0, **changes: Any):
    """A randomly initialised LlamaForCausalLM in eval mode."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(**changes)).eval()
    # Not model.to(dtype): that would round the rotary frequencies too, which a loaded model keeps in fp32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def save_llama(folder: Path, *, shards: bool = False, **options: Any):
    """Save a tiny llama to `folder`, in one file or in several; returns the model."""
    model = tiny_llama(**options)
    model.save_pretrained(folder, max_shard_size="12KB" if shards else "1GB")
    return model


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON object in place; None removes a field."""
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def write_safetensors(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> None:
    """A safetensors file with any header, right or wrong."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def save_gguf(path: Path, model: Any, *, extra: dict[str, Any] | None = None, tokens: int | None = None) -> None:
    """Write a llama as GGUF in F32, with query and key rows in llama.cpp's order, as its converter does."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    if tokens:
        writer.add_token_list([f"t{i}" for i in range(tokens)])
    for key, value in (extra or {}).items():
        writer.add_string(key, value)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, value in model.state_dict().items():
        module, _, suffix = name.rpartition(".")
        array = value.detach().float().numpy()
        if module in outside:
            if module == "lm_head" and config.tie_word_embeddings:
                continue
            writer.add_tensor(f"{outside[module]}.{suffix}", array)
            continue
        _, _, layer, part = module.split(".", 3)
        if part.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads
            array = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2)
            array = array.reshape(value.shape)
        writer.add_tensor(f"blk.{layer}.{names[part]}.{suffix}", array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
