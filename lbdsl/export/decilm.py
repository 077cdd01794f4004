"""`decilm`: an architecture with no-op sub-blocks that unmodified vLLM and SGLang support."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from lbdsl.core.diagnostic import Diagnostic, error, note
from lbdsl.core.printed import as_string
from lbdsl.core.progress import Report
from lbdsl.core.units import layers_text
from lbdsl.export.base import Exporter, Subject
from lbdsl.export.expresses import ONE_WINDOW, llama_layers
from lbdsl.export.files import companions, copy_files, link_files, weight_names, write_json
from lbdsl.export.reasons import first_attention, fused_alike, kernels, only_silu, vllm_cache
from lbdsl.families import FAMILIES
from lbdsl.families.engines import Lacks

CONFIGURATION = Path(__file__).parent / "flat" / "configuration_lbdsl_decilm.py"

_DROPPED_FIELDS = (
    "layer_types",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "per_layer_config",
    "transformers_version",
    "lbdsl",
)


class DeciLM(Exporter):
    """Write the model as DeciLM, which unmodified vLLM loads.

    What: the artifact's weights under the same names, with a small configuration of the layers: which have no attention
    or no MLP, their KV heads and MLP widths, and which attend over a window. Weights are hard-linked.
    Engine: vLLM (tested with 0.32), with `trust_remote_code` for the configuration file only. SGLang reads the same files,
    but supports no windows there, one number of KV heads for all layers, and only some MLP widths.
    Limits: families whose layers are Llama's, biases aside; the first layer that is not empty must have attention.
    Source: vllm/model_executor/models/nemotron_nas.py; DeciLM and Puzzle (arXiv 2411.19146).
    """

    kind = "decilm"
    engine = "vllm"
    where = "DeciLM"
    expresses = llama_layers(ONE_WINDOW)

    @classmethod
    def layers(cls, subject: Subject) -> Sequence[int]:
        return range(len(subject.specs))

    @classmethod
    def check(cls, subject: Subject) -> tuple[Diagnostic, ...]:
        return (
            *_family(subject),
            *cls.refusals(subject),
            *first_attention(subject, cls.where),
            *fused_alike(subject),
            *kernels(subject),
            *vllm_cache(subject, cls.layers(subject)),
            *_sglang(subject),
        )

    @classmethod
    def write(cls, artifact: Path, subject: Subject, output: Path, progress: Report | None = None) -> None:
        write_json(output / "config.json", decilm_config(subject))
        shutil.copyfile(CONFIGURATION, output / CONFIGURATION.name)
        copy_files(artifact, output, companions(artifact))
        link_files(artifact, output, weight_names(artifact), progress)

    @classmethod
    def how_to_load(cls, output: Path) -> str:
        serve = f"vllm serve {quote(str(output))} --trust-remote-code"
        return f"vllm.LLM({as_string(output)}, trust_remote_code=True)   # {serve}"


def decilm_config(subject: Subject) -> dict[str, Any]:
    """The fields of the export's config.json, derived from the layer specifications only here."""
    windows, facts, own = subject.windows, subject.facts, subject.facts.family_data.decilm
    fields = {name: value for name, value in subject.config.items() if name not in _DROPPED_FIELDS}
    blocks = [
        {"kv_heads": kv_heads or None, "width": width or None, "ffn_mult": ffn_mult(facts.hidden, width) if width else None}
        for kv_heads, width in zip(subject.kv_heads, subject.widths, strict=True)
    ]
    return {
        **fields,
        **({} if isinstance(own, Lacks) else own),
        **subject.quantization(),
        "model_type": "lbdsl_decilm",
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": f"{CONFIGURATION.stem}.LbdslDeciLMConfig"},
        "head_dim": facts.head_dim,
        "num_key_value_heads": max(subject.kv_heads, default=0) or facts.kv_heads,
        "intermediate_size": max(subject.widths, default=0) or facts.intermediate,
        "tie_word_embeddings": facts.tied,
        "layer_types": ["sliding_attention" if i in windows else "full_attention" for i in range(len(blocks))],
        "sliding_window": next(iter(windows.values()), None),
        "lbdsl_blocks": blocks,
    }


def ffn_mult(hidden: int, intermediate: int) -> float | None:
    """The multiplier m for which DeciLM's rule gives exactly this MLP size: int(2 * m * hidden / 3), rounded up to a
    multiple of 256. None if there is no such m."""
    if intermediate % 256:
        return None
    for candidate in (intermediate * 3 / (2 * hidden), (intermediate - 128) * 3 / (2 * hidden)):
        size = int(2 * candidate * hidden / 3)
        if -(-size // 256) * 256 == intermediate:
            return candidate
    return None


def _family(subject: Subject) -> Iterator[Diagnostic]:
    """LB506 for features of the family's layers that DeciLM does not support."""
    family = subject.facts.family_data
    if isinstance(family.decilm, Lacks):
        served = (name for name, row in FAMILIES.items() if not isinstance(row.decilm, Lacks))
        yield error(
            "LB506",
            f"DeciLM does not support {family.decilm.what}, which {family.model_type} models have",
            help=f"DeciLM can say: {', '.join(served)}; see `plan --target vllm` for lbdsl's plug-in",
        )
    else:
        yield from only_silu(subject, "vLLM's DeciLM has")


def _sglang(subject: Subject) -> Iterator[Diagnostic]:
    """LB510: notes on how SGLang handles the same files."""
    vllm_only = "serve this export with vLLM only"
    numbers = sorted({*subject.kv_heads} - {0})
    widths = sorted({*subject.widths} - {0})
    if subject.windows:
        layers = layers_text(subject.windows)
        said = f"SGLang's DeciLM has no sliding windows: it would use full attention in {layers}"
        yield note("LB510", said, help=vllm_only)
    elif len(numbers) > 1:
        has = " and ".join(map(str, numbers))
        said = f"SGLang cannot serve it: its cache has one number of KV heads for all layers, this model has {has}"
        yield note("LB510", said, help=vllm_only)
    elif odd := [str(width) for width in widths if ffn_mult(subject.facts.hidden, width) is None]:
        yield note("LB510", f"SGLang cannot load it: its DeciLM rule makes no MLP of {' or '.join(odd)}")
    elif subject.config.get("mlp_bias"):
        yield note("LB510", "SGLang cannot load it: its DeciLM has no biases in the MLP")
