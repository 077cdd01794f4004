"""`granite`: windows, with learned sinks or none, that transformers, vLLM and llama.cpp serve without code of lbdsl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from lbdsl.core.diagnostic import Diagnosed, Diagnostic, error, note
from lbdsl.core.printed import as_string
from lbdsl.core.progress import Report
from lbdsl.export.base import Exporter, Subject
from lbdsl.export.expresses import ANY, ONE_WINDOW, llama_layers
from lbdsl.export.files import companions, copy_files, write_json
from lbdsl.export.gguf_rope import rope_of
from lbdsl.export.native import LAYER_TYPES, half_layers, left_fields, renamed
from lbdsl.export.reasons import fused_alike, kernels, only_silu, vllm_cache
from lbdsl.families import FAMILIES
from lbdsl.families.engines import StockClass
from lbdsl.families.rows import ALL
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.layout import layout_of
from lbdsl.parts.attention import NO_SINK, SINK_LOGITS, Attention
from lbdsl.run.file_layout import MadeTensor, plan_rewrite
from lbdsl.run.shards import carry_out


class Granite(Exporter):
    """A folder of the class `granite_swa`, which has windows in some layers and a learned sink for each query head.

    What: Llama's layers under the names and sizes that they have, multipliers that change nothing, and sinks in every
    layer: those that were learned, and elsewhere -30,000, which has no effect. Layers that were removed whole are left out
    and the others renumbered.
    Engine: transformers 5.16 and later, and vLLM (tested with 0.32), both without remote code; `--to gguf` writes the same
    form for llama.cpp. transformers has only its `eager` attention on a CPU, which is slow on long prompts.
    Limits: Llama, Mistral, Qwen 2 and SmolLM3, without dropped attentions or MLPs; one window size, number of KV heads and
    MLP width.
    Source: transformers, models/granite_swa; vllm/model_executor/models/granite.py.
    """

    kind = "granite"
    engine = "vllm"
    where = "granite_swa"
    expresses = llama_layers(ONE_WINDOW, learned_sinks=ANY, alike=True)

    @classmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        return granite_config(subject).diagnostics

    @classmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        config = granite_config(subject).unwrap()
        layers, facts = subject.left, subject.facts
        prefix = facts.family_data.layer_prefix
        there, names = read_tensors(artifact), renamed(artifact, prefix, layers)
        made: dict[str, MadeTensor] = {}
        for place, layer in enumerate(layers):
            spec, beside = subject.specs[layer], prefix.format(layer) + "self_attn.o_proj.weight"
            assert isinstance(spec.mixer, Attention), "other layers are refused"
            sizes = {SINK_LOGITS.name: spec.mixer.heads}
            if config["attention_bias"]:
                rows = {tensor.module: tensor.shape[0] for tensor in spec.tensors(facts) if tensor.is_matrix}
                sizes |= {f"self_attn.{part}_proj.bias": rows[f"self_attn.{part}_proj"] for part in ALL}
            for name, size in sizes.items():
                if (old := prefix.format(layer) + name) not in there:
                    made[old], names[old] = MadeTensor(facts.dtype, (size,), beside), prefix.format(place) + name
        made_as = {names[name]: tensor for name, tensor in made.items()}
        write_json(output / "config.json", config)
        copy_files(artifact, output, companions(artifact))
        plan = plan_rewrite(artifact, rename=names, made=made)
        carry_out(plan, output, make=lambda name: _constant(name, made_as[name]), progress=progress)

    @classmethod
    def how_to_load(cls, output: Path) -> str:
        return (
            f"vllm.LLM({as_string(output)})   # vllm serve {quote(str(output))}\n"
            f'AutoModelForCausalLM.from_pretrained({as_string(output)}, attn_implementation="eager")   # in transformers'
        )


def _constant(name: str, tensor: MadeTensor) -> bytes:
    """The bytes of a sink without effect, or of a bias of 0."""
    import torch

    value = NO_SINK if name.endswith(SINK_LOGITS.name) else 0.0
    return torch.full(tensor.shape, value, dtype=getattr(torch, tensor.dtype)).view(torch.uint8).numpy().tobytes()


def granite_config(subject: Subject) -> Diagnosed[Mapping[str, Any]]:
    """The fields of config.json; diagnostics LB503-LB506, LB512, LB513, LB530 and LB531. Pure."""
    layout, config, left = layout_of(subject.config), subject.config, subject.left
    family = layout.family
    found = [
        *Granite.refusals(subject, empty=False),
        *half_layers(subject, Granite.where),
        *fused_alike(subject),
        *kernels(subject),
        *vllm_cache(subject, left),
    ]
    if not family.granite_swa:
        names = ", ".join(name for name, row in FAMILIES.items() if row.granite_swa)
        said = f"granite_swa cannot compute the layers of {family.model_type} models"
        found.append(error("LB506", said, help=f"it has those of {names}"))
    found += only_silu(subject, "vLLM's granite_swa has")
    if any(d.is_error for d in found):
        return Diagnosed(None, tuple(found))
    slow = "in transformers on a CPU with `eager` attention, slow on long prompts"
    found.append(note("LB531", f"it loads as granite_swa; {slow}"))
    rope = rope_of(family, config)
    always_biased = any(row.name.endswith("q_proj.bias") and row.when is None for row in family.rows["attention"])
    new = left_fields(subject, layout, StockClass("granite_swa", "GraniteSWAForCausalLM"))
    new |= {
        "attention_bias": always_biased or "attention_bias" in layout.flags,
        "mlp_bias": "mlp_bias" in layout.flags,
        "attention_multiplier": layout.sizes.head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "layer_types": [LAYER_TYPES[i in subject.windows] for i in left],
        # The class makes a mask for windows even if no layer has one.
        "sliding_window": next(iter(subject.windows.values()), layout.sizes.positions),
        "rope_parameters": {"rope_type": rope.kind, "rope_theta": rope.theta, **rope.rest},
        "layer_rope_theta": [rope.theta if family.has_rope(i, config) else 0.0 for i in left],
        "rms_norm_eps": config.get("rms_norm_eps", family.epsilon),
        **subject.quantization(left),
    }
    for name in ("rope_theta", "rope_scaling", "no_rope_layers", "no_rope_layer_interval", "use_sliding_window"):
        new.pop(name, None)
    return Diagnosed(new, tuple(found))
