"""Tables of the pages that are generated from the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping

from docs.language_tables import LANGUAGE_TABLES
from lbdsl.export import exporters
from lbdsl.families import FAMILIES, Family
from lbdsl.families.windows import NO_WINDOWS


def families() -> str:
    lines = ["| `model_type` | models | attention | norms | own windows | GGUF source |", "|---|---|---|---|---|---|"]
    for row in FAMILIES.values():
        lines.append(
            f"| `{row.model_type}` | {row.examples} | {_attention(row)} | {_norms(row)} | "
            f"{'no' if row.windows is NO_WINDOWS else 'yes'} | {'yes' if row.gguf.read else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def _attention(row: Family) -> str:
    names = {tensor.name for tensor in row.attention}
    words = ["fused qkv" if any("qkv_proj" in name for name in names) else "q, k, v"]
    if any("q_norm" in name for name in names):
        words.append("normed queries and keys")
    biased = [tensor for tensor in row.attention if tensor.name.endswith("proj.bias")]
    if biased:
        words.append("biases" if biased[0].when is None else f"biases with `{biased[0].when}`")
    if row.attention_softcap:
        words.append("capped scores (eager attention)")
    return ", ".join(words)


def _norms(row: Family) -> str:
    rows = [tensor.name for tensor in (row.attention[0], row.attention[-1])]
    before, after = (name.endswith("layernorm.weight") for name in rows)
    return "before and after" if before and after else "before" if before else "after"


def exports() -> str:
    parts = []
    for kind, exporter in exporters().items():
        parts.append(f"### `{kind}`\n\n{inspect.getdoc(exporter)}\n")
    # Paragraphs of a docstring are lists here: What, Engine, Limits, Source.
    text = "\n".join(parts)
    return re.sub(r"^(What|Engine|Limits|Source): ", r"- **\1**: ", text, flags=re.MULTILINE)


TABLES: Mapping[str, Callable[[], str]] = {"families": families, "exports": exports, **LANGUAGE_TABLES}
