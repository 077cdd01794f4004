"""What a recipe makes of SmolLM2, judged on both built-in texts that judge: for several tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import once, stamp_file
from benchmarks.tables.judged import MODEL, lbdsl

TEXTS = ("wikitext", "pydoc")


def made(work: Path, name: str, recipe: str, *words: str) -> Path:
    """The artifact of a recipe, which is made once; of another recipe than before, anew. `words`: options of `apply`."""
    path, text = work / f"{name}.lbr", f"lbr 1\n{recipe}\n"
    work.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_text() != text:
        of_it = (work / name, work / f"{name}.json")
        for stale in (*of_it, *map(stamp_file, of_it), work / f"{name}.part.lbdsl-work"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    path.write_text(text)
    return once(work / name, lambda out: lbdsl("apply", str(path), MODEL, "-o", str(out), "--yes", "--resume", *words))


def evaluated(
    work: Path,
    name: str,
    recipe: str,
    *,
    seq: int = 1024,
    tokens: int = 8192,
    texts: Sequence[str] = TEXTS,
    artifact: str | None = None,
) -> Mapping[str, dict[str, Any]]:
    """What `lbdsl eval --json` says of it by text, on so many tokens in sequences of `seq`; it is evaluated once. The
    artifact's name is that of the evaluation, or its own."""

    def make(path: Path) -> None:
        folder = made(work, artifact or name, recipe)
        path.write_text(json.dumps({text: judge(folder, text, seq=seq, tokens=tokens) for text in texts}))

    return json.loads(once(work / f"{name}.json", make).read_text())


def judge(folder: Path, text: str, *words: str, seq: int = 1024, tokens: int = 8192) -> dict[str, Any]:
    """What `lbdsl eval --json` says of an artifact on a built-in text."""
    lengths = ("--seq", str(seq), "--tokens", str(tokens))
    found = lbdsl("eval", str(folder), "--data", f"builtin:{text}", *lengths, *words, "--json")
    return dict(json.loads(found.stdout))


def increases(found: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """The rise of perplexity with its error, by text."""
    return {
        f"{text}{what}": value
        for text, said in found.items()
        for what, value in (("", said["ppl_increase"]), (" error", said["stderr"]["ppl_increase"]))
    }


FORMATS = {f"{text}{what}": form for text in TEXTS for what, form in {"": "+.1%", " error": ".1%"}.items()}
"""The formats of `increases`."""
