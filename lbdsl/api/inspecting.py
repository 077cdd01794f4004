"""`inspect_model`: facts of a model, from its configuration and headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import Diagnostic
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.inspect import facts_summary
from lbdsl.model.inspect import inspect_model as _inspect
from lbdsl.model.source import ModelSource, is_artifact, resolve_source


@dataclass(frozen=True, repr=False)
class Inspected:
    source: ModelSource
    facts: ModelFacts
    diagnostics: tuple[Diagnostic, ...]
    base: tuple[str, ModelFacts] | None = None
    """For an artifact whose record can be read: the name and facts of its base model."""

    def __repr__(self) -> str:
        return f"<Inspected: {self.source.short_name}, {self.facts.family}, {self.facts.layers} layers>"

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON of `inspect --json`."""
        return facts_summary(self.facts, self.source, self.base)


def inspect_model(model: str | Path, *, dtype: str | None = None, offline: bool = False) -> Inspected:
    """Facts of a local folder, also one with config.json alone, a GGUF file or a hub id; no weights are read. Raises
    LbdslError."""
    source = resolve_source(str(model), offline=offline)
    found = _inspect(source, dtype, weights=False)
    return Inspected(source, found.unwrap(), found.diagnostics, _base_of(source) if is_artifact(source) else None)


def _base_of(source: ModelSource) -> tuple[str, ModelFacts] | None:
    from lbdsl.artifact.record import facts_of, read_record

    record = read_record(source.path).value
    return None if record is None else (record.plan.model.name or record.plan.model.source, facts_of(record))
