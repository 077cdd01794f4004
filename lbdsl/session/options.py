"""Options of a run, such as device and dtype. The changes to the model are in the recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """device: "cpu", "cuda", "cuda:1", ... (None: a GPU where there is one). dtype: "float32", "bfloat16", "float16"
    (None: the checkpoint's, bfloat16 for GGUF). batch: sequences at a time while measuring and evaluating.
    cache_dir: folder of measurements and digests (None: the user's cache folder). offline: never connect to a hub.
    trust_remote_code: run code that comes with a *source* model. low_memory: leave weights on disk while measuring and
    evaluating, one layer in memory at a time (also done without it when the model does not fit). allow_paths: folders whose
    files a recipe, plan or artifact may name, besides its own folder. allow_task_code: files of tasks that it names may run
    code. recall: measure what a plan forgets. serving: what an engine runs on whose speed is predicted: the name of a GPU,
    or "cpu" (None: this machine, else the GPUs that were calibrated last)."""

    device: str | None = None
    dtype: str | None = None
    batch: int = 1
    cache_dir: Path | None = None
    offline: bool = False
    trust_remote_code: bool = False
    low_memory: bool = False
    allow_paths: tuple[Path, ...] = ()
    allow_task_code: bool = False
    recall: bool = True
    serving: str | None = None

    def __post_init__(self) -> None:
        if self.cache_dir is not None:
            # No shell has seen a `~` of lbdsl.toml or the environment.
            object.__setattr__(self, "cache_dir", Path(os.path.expanduser(self.cache_dir)))
