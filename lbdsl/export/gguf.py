"""`gguf`: one file for llama.cpp."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, LbdslError, fail, note
from lbdsl.core.progress import Report
from lbdsl.export.base import Exporter, Subject
from lbdsl.export.gguf_rope import scaling_fields
from lbdsl.export.gguf_target import EXPRESSES, ZERO_WIDTH, GgufModel, every_nth, target_of
from lbdsl.export.gguf_tensors import layer_tensors, out_tensors
from lbdsl.export.gguf_tokenizer import tokenizer_fields
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.layout import layout_of
from lbdsl.model.load_check import loading
from lbdsl.model.safetensors_header import TensorInfo
from lbdsl.parts import Part
from lbdsl.parts.gated_delta_net import GatedDeltaNet
from lbdsl.parts.int_weights import Int
from lbdsl.parts.moe import Moe

FILE = "model.gguf"


class Gguf(Exporter):
    """One GGUF file that llama.cpp, and programs built on it, load without changes.

    What: weights, tokenizer and chat template in `model.gguf`. 16-bit weights are written as float16: llama.cpp rounds
    activations to the type of the weights, and float16 has three more mantissa bits than bfloat16. A matrix with a value
    beyond 65,504 stays bfloat16. float32 stays float32. Integers of `quantize` are written as
    Q4_0 and Q8_0, the same integers and scales; llama.cpp rounds activations in its own way. K-quants are made by
    `llama-quantize` from the export of a model that is not quantized; a note has the command.
    Engine: the family's own architecture if no layer has lost only its attention or MLP, sizes are equal, and it
    supports the windows; else `deci` for layers without attention or MLP or with different KV heads or MLP widths,
    `granite_swa` for windows in Llama-like layers. Gated delta nets are of Qwen 3.5's own, in all layers but every
    n-th. Layers that were removed whole are left out. Start llama.cpp with `-fa on`: without flash attention its V
    cache of every layer, even without attention, is as large as that of the layer with the most KV heads.
    Limits: windows cannot be combined with removed attention or MLPs or with different sizes. In families where windowed
    layers have other rotary embeddings, only layers with a native window can get another window. The tokenizer must be one
    whose pre-tokenizer llama.cpp supports.
    Source: llama.cpp, src/models/deci.cpp, granite-swa.cpp, gemma3.cpp, openai-moe.cpp, qwen35.cpp and llama-vocab.cpp.
    """

    kind = "gguf"
    engine = "llamacpp"
    where = "llama.cpp"
    expresses = EXPRESSES

    @classmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        target, found = target_of(subject)
        if any(subject.fp8_caches.values()):
            told = "start it with `-fa on -ctk q8_0 -ctv q8_0`: 8-bit integers with scales, in all layers"
            found = (*found, note("LB532", "llama.cpp keeps no 8-bit floats in its cache", help=told))
        command = k_quants(target) if target is not None else None
        if command is None:
            return found
        what = "integers are written as Q4_0 and Q8_0; K-quants of the same bits are made by llama.cpp's `llama-quantize`"
        help = ("export the model without `quantize`, and run", command)
        return (*found, note("LB526", what, help=help))

    @classmethod
    def check_tokenizer(cls, folder: Path, subject: Subject) -> tuple[Diagnostic, ...]:
        if not (folder / "tokenizer.json").is_file():
            return ()
        try:
            tokenizer_fields(folder, layout_of(subject.config).sizes.vocab, subject.config)
        except LbdslError as problem:
            return problem.diagnostics
        return ()

    @classmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        write_model(artifact, target_of(subject).unwrap(), output / FILE, progress=progress)

    @classmethod
    def how_to_load(cls, output: Path) -> str:
        file = quote(str(output / FILE))
        return f"llama-cli -fa on -m {file}\nllama-server -fa on -m {file}"


def k_quants(target: GgufModel) -> str | None:
    """The command that quantizes the same maps to K-quants, in the file of the model without `quantize`; None if there are
    none. Patterns are for the whole line: the last that matches a tensor wins, and Q8_0 is what none matches."""
    rows = {row.name: row for row in target.layout.family.layer_rows}
    blocks: dict[tuple[str, str], list[str]] = {}
    for place, spec in enumerate(target.specs):
        for tensor in spec.tensors(target.facts):
            if len(tensor.shape) > 1 and not tensor.routes:
                storage = spec.storage(tensor.module)
                kind = f"q{storage.bits}" if isinstance(storage, Int) else "f16"
                shape = TensorInfo("", "", tensor.shape, "", 0, 0)
                outs = layer_tensors(target, place, shape, rows[tensor.name])
                for out in (out for out in outs if out.name.endswith(".weight")):
                    name = out.name.removeprefix(f"blk.{place}.").removesuffix(".weight")
                    blocks.setdefault((kind, name), []).append(str(place))
    if all(kind == "f16" for kind, _ in blocks):
        return None
    types = {"q4": "q4_k", "f16": "f16"}
    patterns = (
        f" --tensor-type 'blk\\.({'|'.join(places)})\\.{name}\\.={types[kind]}'"
        for (kind, name), places in blocks.items()
        if kind in types
    )
    keep = "--token-embedding-type f16 --output-tensor-type f16"
    return f"llama-quantize {keep}{''.join(patterns)} {FILE} k-quants.gguf Q8_0"


def write_model(
    artifact: Path, target: GgufModel, path: Path, *, numbers: str | None = None, progress: Report | None = None
) -> None:
    """Write the artifact in the form `target` to `path`; `numbers` as in `write_gguf`. Raises LB409, LB463, LB522."""
    from lbdsl.export.gguf_writer import write_gguf

    outs = out_tensors(target, read_tensors(artifact))
    floats = ("float64", "float32", "float16", "bfloat16")
    odd = next((out.source for out in outs if out.source and not out.packed and out.source.dtype not in floats), None)
    if odd is not None:
        raise fail("LB465", f"{odd.name} is {odd.dtype}, and nothing says that it is packed")
    with loading("LB522", f"the tokenizer of {artifact} cannot be read"):
        tokenizer = tokenizer_fields(artifact, target.layout.sizes.vocab, target.config, artifact.name)
    write_gguf(path, {**model_fields(target), **tokenizer}, outs, artifact, numbers, progress)


def _expert_fields(ffn: Part | None) -> dict[str, int]:
    if not isinstance(ffn, Moe):
        return {}
    counts = {"expert_count": ffn.experts, "expert_used_count": ffn.top_k}
    shared = {"expert_shared_feed_forward_length": ffn.shared} if ffn.shared else {}
    return {**counts, **shared, "expert_feed_forward_length": ffn.width}


def _net_fields(target: GgufModel) -> dict[str, Any]:
    """Of gated delta nets. Positions of text are the same in all sections of rotary embeddings for images, which llama.cpp
    wants no wider than a head."""
    sections, head_dim = target.rope.rest.get("mrope_section", (11, 11, 10)), target.layout.sizes.head_dim
    if sum(sections) > head_dim:
        # Pairs belong to the three by turns.
        sections = [math.ceil(int(head_dim * target.rope.partial) / 2 / 3)] * 3
    net = next(spec.mixer for spec in (*target.specs, *target.layout.specs) if isinstance(spec.mixer, GatedDeltaNet))
    return {
        "ssm.conv_kernel": net.kernel,
        "ssm.state_size": net.key_dim,
        "ssm.group_count": net.key_heads,
        "ssm.time_step_rank": net.value_heads,
        "ssm.inner_size": net.value_heads * net.value_dim,
        "full_attention_interval": every_nth(target.specs),
        "rope.dimension_sections": [*sections, 0],
    }


def model_fields(target: GgufModel) -> dict[str, Any]:
    """Metadata keys and values, without the tokenizer's; lists are arrays with one entry per layer."""
    sizes, config, graph, family = target.layout.sizes, target.config, target.graph, target.layout.family
    fields: dict[str, Any] = {
        "block_count": len(target.layers),
        "context_length": sizes.positions,
        "embedding_length": sizes.hidden,
        "vocab_size": sizes.vocab,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": max(target.kv_heads),
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "rope.dimension_count": int(sizes.head_dim * target.rope.partial),
        "rope.freq_base": target.rope.theta,
        "feed_forward_length": target.widths[0],
        **_expert_fields(target.specs[0].ffn),
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", family.epsilon)),
        **scaling_fields(target.rope),
    }
    if graph.delta_nets:
        fields |= _net_fields(target)
    if graph.by_layer:
        # llama.cpp reads the number of heads from the first layer.
        fields["attention.head_count"] = [
            sizes.heads if kv_heads or place == 0 else 0 for place, kv_heads in enumerate(target.kv_heads)
        ]
        fields["attention.head_count_kv"] = list(target.kv_heads)
        fields["feed_forward_length"] = [width or ZERO_WIDTH for width in target.widths]
    if graph.windows and (target.window is not None or graph.always_windowed):
        fields["attention.sliding_window"] = target.window or sizes.positions
        fields["attention.sliding_window_pattern"] = [target.window is None or target.windowed[0], *target.windowed[1:]]
        if target.local_rope is not None:
            fields["rope.freq_base_swa"] = target.local_rope.theta
    if graph.rope_pattern:
        fields["attention.rope_pattern"] = [int(has) for has in target.has_rope]
    if graph.multipliers:
        fields["logit_scale"] = 1.0
    for key, (name, usual) in family.gguf.numbers.items():
        owner, _, field = name.rpartition(".")
        fields[key] = float((config.get(owner) or {} if owner else config).get(field, usual) or 0.0)
    return {
        "general.architecture": graph.name,
        **{f"{graph.name}.{key}": value for key, value in fields.items()},
    }
