"""Where else the losses are shown while a model heals: accelerate's trackers (TensorBoard, Weights & Biases, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lbdsl.core.processes import process_number
from lbdsl.recipe.schema_blocks import Stage


class Trackers:
    """One run, called `name`, in each of these; TensorBoard's files are in `logs`. The first process alone shows it."""

    def __init__(self, names: Sequence[str], name: str, logs: Path, stage: Stage):
        self._open: list[Any] = []
        if not names or process_number():
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()
        settings = {key: str(value) for key, value in stage.model_dump(mode="json").items()}
        for kind in names:
            tracker = LOGGER_TYPE_TO_CLASS[kind]
            # Those that write files put them into a folder of the run's name.
            files = tracker.requires_logging_directory
            opened = tracker(logs.name, logging_dir=str(logs.parent)) if files else tracker(name)
            opened.start()
            opened.store_init_configuration(settings)
            self._open.append(opened)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        # The next stage is a run of its own.
        for tracker in self._open:
            tracker.finish()

    def show(self, name: str, step: int, value: float) -> None:
        for tracker in self._open:
            tracker.log({name: value}, step=step)
