"""Planned, pruned and quantized from disk: a checkpoint of experts of 7.4 GB, whose layers take 1.2 GB each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lbdsl.artifact.record import read_record
from lbdsl.model.checkpoint import read_tensors
from tests.slow.large_checkpoint import write_shards
from tests.tiny_model import byte_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
GB = 1e9
HIDDEN, EXPERTS, WIDTH, LAYERS = 2048, 64, 1536, 6
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "moe_intermediate_size": WIDTH,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 260,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "bos_token_id": None,
    "eos_token_id": 256,
}
RECIPE = """measure { data = "builtin:pydoc"; tokens = 1Ki; seq = 256 }
layers all experts(50%)
modules "*.experts.*" quantize(bits=4)
"""
PEAK = """
import subprocess, sys, resource
done = subprocess.run([sys.executable, "-m", "lbdsl", *sys.argv[1:]], capture_output=True, text=True)
assert done.returncode == 0, done.stderr[-3000:]
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def write_checkpoint(folder: Path) -> None:
    """In a file a layer, an expert's matrices one by one, as on the hub; all zeros, which take no disk."""
    shards = [{"model.embed_tokens.weight": [260, HIDDEN], "model.norm.weight": [HIDDEN]}]
    for layer in range(LAYERS):
        projections = {"q_proj": [2048, HIDDEN], "k_proj": [512, HIDDEN], "v_proj": [512, HIDDEN], "o_proj": [HIDDEN, 2048]}
        own = {f"self_attn.{name}": shape for name, shape in projections.items()}
        own |= {"input_layernorm": [HIDDEN], "post_attention_layernorm": [HIDDEN], "mlp.gate": [EXPERTS, HIDDEN]}
        own |= {"self_attn.q_norm": [128], "self_attn.k_norm": [128]}
        for expert in range(EXPERTS):
            matrices = {"gate_proj": [WIDTH, HIDDEN], "up_proj": [WIDTH, HIDDEN], "down_proj": [HIDDEN, WIDTH]}
            own |= {f"mlp.experts.{expert}.{name}": shape for name, shape in matrices.items()}
        shards.append({f"model.layers.{layer}.{name}.weight": shape for name, shape in own.items()})
    write_shards(folder, CONFIG, shards, lambda stream, size: stream.truncate(stream.tell() + size))
    byte_tokenizer().save_pretrained(folder)


def test_peak_memory_is_one_layer_of_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(tmp_path / "cache"))
    write_checkpoint(tmp_path / "base")
    (tmp_path / "r.lbr").write_text(RECIPE)
    layer = sum(info.stop - info.start for name, info in read_tensors(tmp_path / "base").items() if ".layers.0." in name)

    def peak(*words: str) -> int:
        command = [sys.executable, "-c", PEAK, *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=1500)
        assert done.returncode == 0, done.stderr[-3000:]
        return int(done.stdout)

    plan, out = str(tmp_path / "plan.json"), tmp_path / "out"
    least = peak("check", str(tmp_path / "r.lbr"), "--model", str(tmp_path / "base"))
    found = {"plan": peak("plan", str(tmp_path / "r.lbr"), str(tmp_path / "base"), "--low-memory", "-o", plan)}
    found["apply"] = peak("apply", plan, "--low-memory", "--yes", "-o", str(out))
    shown = ", ".join(f"{name} {bytes_ / GB:.2f} GB" for name, bytes_ in found.items())
    print(f"\none layer {layer / GB:.2f} GB; peaks: check {least / GB:.2f} GB, {shown}")
    size = sum(info.stop - info.start for info in read_tensors(out).values())
    assert (
        size
        == read_record(out).unwrap().plan.after.weights
        < 0.15 * sum(info.stop - info.start for info in read_tensors(tmp_path / "base").values())
    )
    # That of `check` is what is imported without torch; torch itself takes about 0.4 GB.
    assert max(found.values()) < layer + GB + least + 0.4 * GB
