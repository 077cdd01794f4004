"""Resolve MODEL of the command line: a folder, a GGUF file, an lbdsl artifact, or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lbdsl.core.diagnostic import fail
from lbdsl.core.paths import did_you_mean, inside

ARTIFACT_FILE = "lbdsl.json"

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SNAPSHOT = re.compile(r"models--.+--(?P<name>.+)")
_GGUF_SUFFIX = re.compile(r"[.-](I?Q\d\w*|BF16|F16|F32)$", re.IGNORECASE)


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are.

    text:       what the user wrote
    path:       the folder that holds the files, absolute
    gguf_file:  name of the GGUF file in that folder, or None for safetensors
    revision:   commit hash of a hub snapshot, else None
    short_name: for names of output folders and for display, e.g. `SmolLM2-135M`
    """

    text: str
    path: Path
    gguf_file: str | None
    revision: str | None
    short_name: str

    @property
    def gguf_path(self) -> Path | None:
        return None if self.gguf_file is None else self.path / self.gguf_file


def hub_repository(text: str) -> str | None:
    """`organisation/name` of a hub id, which may end in @revision; None for anything else."""
    match = _HUB_ID.fullmatch(text)
    return match["repo"] if match is not None else None


def is_artifact(source: ModelSource) -> bool:
    """Whether the folder is an artifact that lbdsl saved."""
    return (source.path / ARTIFACT_FILE).is_file()


def resolve_source(text: str, *, offline: bool = False) -> ModelSource:
    """Find the files of MODEL; a hub id is downloaded (safetensors, JSON and tokenizer files only, never a pickle).

    A path that exists takes precedence over a hub id. With `offline`, only the hub's local cache is used.
    Raises LbdslError with LB400 or LB401 for paths, LB411-LB414 for the hub.
    """
    if not text.strip() or "\0" in text:
        raise fail("LB400", "no model is given: its name is empty", help="give a folder, a .gguf file or a hub id")
    try:
        path = Path(text).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as problem:
        raise fail("LB400", f"cannot look at {text}: {problem}") from problem
    if exists:
        return _local(text, path.resolve())
    match = _HUB_ID.fullmatch(text)
    if match is None or text.startswith((".", "/", "~")) or match["repo"].endswith((".gguf", ".safetensors")):
        there = sorted(path.parent.glob("*.gguf")) if path.suffix.lower() == ".gguf" else []
        meant = (f"there is {there[0]}",) if len(there) == 1 else did_you_mean(path)
        raise fail(
            "LB400",
            f"there is no {text}",
            help=(*meant, "give an existing folder or .gguf file, or a hub id like organisation/name"),
        )
    from lbdsl.model.hub import download_snapshot

    folder = download_snapshot(match["repo"], match["revision"], offline=offline)
    commit = folder.name if _COMMIT.fullmatch(folder.name) else None
    return ModelSource(text, folder, None, commit, _clean(match["repo"].split("/")[1]))


def _local(text: str, path: Path) -> ModelSource:
    if path.is_file():
        if path.suffix in (".lbr", ".lbplan"):
            what = "a recipe" if path.suffix == ".lbr" else "a saved plan"
            help = "MODEL is a folder, a .gguf file or a hub id, and comes after the recipe: `lbdsl plan RECIPE MODEL`"
            raise fail("LB400", f"{text} is {what}, not a model", help=help)
        if path.suffix.lower() != ".gguf":
            there = (path.parent / "config.json").is_file()
            folder = (
                f"the model's folder, {Path(text).parent}" if there else "the folder that holds config.json and the weights"
            )
            raise fail("LB400", f"{text} is neither a folder nor a .gguf file", help=f"give {folder}")
        return ModelSource(text, path.parent, path.name, None, _gguf_name(path))
    if not path.is_dir():
        raise fail("LB400", f"{text} is neither a folder nor a file")
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as problem:
        raise fail("LB400", f"cannot list {text}: {problem.strerror}") from problem
    # Only regular files: opening a named pipe would block.
    ggufs = [name for name in names if name.lower().endswith(".gguf") and (path / name).is_file()]
    if ggufs and not any(name.endswith(".safetensors") for name in names):
        if len(ggufs) > 1:
            raise fail(
                "LB401",
                f"{text} holds {len(ggufs)} GGUF files: {', '.join(ggufs)}",
                help=f"name one of them, e.g. {Path(text) / ggufs[0]}",
            )
        return ModelSource(text, path, ggufs[0], None, _gguf_name(path / ggufs[0]))
    if "config.json" not in names:
        raise fail(
            "LB401",
            f"{text} holds no config.json and no .gguf file",
            help=(
                *inside(Path(text).expanduser(), ARTIFACT_FILE, "config.json"),
                "give the folder that a model was saved to with save_pretrained, or a .gguf file",
            ),
        )
    snapshot = _SNAPSHOT.fullmatch(path.parent.parent.name) if path.parent.name == "snapshots" else None
    if snapshot is not None and _COMMIT.fullmatch(path.name):
        return ModelSource(text, path, None, path.name, _clean(snapshot["name"]))
    return ModelSource(text, path, None, None, _clean(path.name))


def _gguf_name(path: Path) -> str:
    return _clean(_GGUF_SUFFIX.sub("", path.stem))


def _clean(name: str) -> str:
    """`name` made safe for use in a folder name on every system."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "model"
