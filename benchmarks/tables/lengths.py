"""32Ki tokens beside 8Ki, by a Llama of random weights in transformers: what four times the length costs.

Two layers of SmolLM2's size in float32, all changed alike. `reading` is the time of one forward over 32Ki tokens over
that of 8Ki, `writing` that of a token after them, `cache` the bytes that the cache then holds; `again` one run of 8Ki
over another. The lengths run by turns in a process of the row's own; medians of neighbours. `kept` is `reading` once
more, where freed memory stays with the process: pages that are given back and taken anew cost more where tensors are
larger.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.table import CHANGING, Row, Table
from benchmarks.tables.judged import lbdsl
from benchmarks.tables.windows import ratio

PLANS = {
    "linear": "linear(window=64, sinks=learned)",
    "linear-elu": "linear(window=64, features=elu, sinks=learned)",
    "swa": "swa(window=194, sinks=learned)",
    "keep": "keep",
}
SHORT, LONG = 8 * 1024, 32 * 1024
SIZES: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
BACKS = 5
TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of mallopt(3)."""


def changed(place: Path, rule: str) -> Path:
    """The model on disk after `rule`."""
    from tests.tiny_model import save_tiny_model

    base = save_tiny_model(place / "base", layers=2, **SIZES, max_position_embeddings=2 * LONG)
    if rule == "keep":
        return base
    text = f'lbr 1\nmeasure {{ data = "builtin:pydoc"; tokens = 1Ki; seq = 512 }}\nlayers all {rule}\n'
    (place / "recipe.lbr").write_text(text, encoding="utf-8")
    lbdsl("apply", str(place / "recipe.lbr"), str(base), "--yes", "--no-heal", "-o", str(place / "changed"))
    return place / "changed"


def row(rule: str, _work: Path) -> dict[str, float]:
    # By the name that another process can import. Its own, for how memory is kept cannot be undone in one.
    from benchmarks.tables.lengths import timed

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(timed, rule).result()


def timed(rule: str) -> dict[str, float]:
    import ctypes

    import torch
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(changed(Path(place), rule), trust_remote_code=True).eval()
        texts = {length: torch.arange(length)[None] * 7 % 256 for length in (SHORT, LONG)}
        caches = {length: model(text, logits_to_keep=1).past_key_values for length, text in texts.items()}

        def read(length: int) -> float:
            return _seconds(lambda: model(texts[length], logits_to_keep=1))

        def write(length: int) -> float:
            token = torch.zeros(1, 1, dtype=torch.long)
            return _seconds(lambda: [model(token, past_key_values=caches[length]) for _ in range(8)])

        held = {length: sum(map(_bytes, cache.layers)) for length, cache in caches.items()}
        reading, again = ratio(partial(read, LONG), partial(read, SHORT), BACKS)
        writing, _ = ratio(partial(write, LONG), partial(write, SHORT), BACKS)
        for option, value in ((TRIM_THRESHOLD, 2**31 - 1), (MMAP_MAX, 0)):
            ctypes.CDLL(None).mallopt(option, value)
        kept, _ = ratio(partial(read, LONG), partial(read, SHORT), BACKS)
    return {"reading": reading, "kept": kept, "writing": writing, "cache": held[LONG] / held[SHORT], "again": again}


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _bytes(layer: Any) -> int:
    """What a layer of a cache holds."""
    names = layer.tensors() if hasattr(layer, "tensors") else ("keys", "values")
    return sum(getattr(layer, name).nbytes for name in names)


TABLE = Table(
    title="32Ki tokens over 8Ki, two layers in transformers",
    columns={"reading": ".2f", "kept": ".2f", "writing": ".2f", "cache": ".2f", "again": ".2f"},
    rows=[Row(key, partial(row, rule)) for key, rule in PLANS.items()],
    measures=CHANGING,
)
