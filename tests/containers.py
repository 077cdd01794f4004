"""One set of integers: an artifact's quantized matrices against those in its exports, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from lbdsl.packing import packings
from lbdsl.plan.schema import Plan
from lbdsl.session.exporting import export_artifact

BLOCK_BYTES = {"Q4_0": 18, "Q8_0": 34}
PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def same_in_every_container(artifact: Path, plan: Plan, folder: Path) -> int:
    """The number of quantized matrices; all were compared, in a Llama whose layers lack attention and MLP or neither."""
    import gguf

    tensors = saved(artifact)
    assert sum(tensor.nbytes for tensor in tensors.values()) == plan.after.weights
    decilm = saved(export_artifact(artifact, "decilm", output=folder / "decilm").folder)
    assert tensors.keys() == decilm.keys()
    assert all(torch.equal(tensors[name], decilm[name]) for name in tensors)
    file = export_artifact(artifact, "gguf", output=folder / "gguf").folder / "model.gguf"
    head_dim = plan.model.facts.head_dim
    left = [layer for layer, spec in enumerate(plan.specs) if spec.mixer is not None or spec.ffn is not None]
    packed = {
        f"model.layers.{layer}.{module}": storage
        for layer, spec in enumerate(plan.specs)
        for module, storage in spec.weights
        if storage.packs
    }
    for tensor in gguf.GGUFReader(file).tensors:
        kind = tensor.tensor_type.name
        if kind not in BLOCK_BYTES:
            continue
        block, place, name, _ = tensor.name.split(".")
        assert block == "blk"
        source = f"model.layers.{left[int(place)]}.{PARTS[name]}"
        storage = packed.pop(source)
        own = {key.removeprefix(f"{source}."): value for key, value in tensors.items() if key.startswith(f"{source}.")}
        integers, scales = packings()[storage.kind].integers(storage, own)
        expected = (integers.float().unflatten(1, (scales.shape[1], -1)) * scales.float().unsqueeze(-1)).flatten(1)
        if name in ("attn_q", "attn_k"):
            expected = expected.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(expected.shape)
        assert kind == f"Q{storage.bits}_0"
        # Exact in float32: 8 bits of an integer times 8 of a scale.
        assert torch.equal(torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)), expected)
        assert tensor.n_bytes == expected.numel() // 32 * BLOCK_BYTES[kind]
    assert not packed, "every quantized matrix is in the file"
    return sum(storage.packs for spec in plan.specs for _, storage in spec.weights)
