"""Diagnostics: errors as values, with code, severity, message, spans, help and a machine-applicable fix.

Stages return `(value, diagnostics)`. `LbdslError` raises diagnostics out of the public API. The exit code is a property of
the diagnostic's code (`core.codes`), and nothing else decides it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from lbdsl.core.codes import code_for
from lbdsl.core.span import Span

T = TypeVar("T")


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Label:
    """A secondary span, with its relation to the problem."""

    span: Span
    text: str


@dataclass(frozen=True)
class Edit:
    """Replace `span` by `text`."""

    span: Span
    text: str


@dataclass(frozen=True)
class Fix:
    """Edits that remove the problem when applied together."""

    title: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `message` is a lower-case phrase without a final period; `help` lines say what to do."""

    code: str
    severity: Severity
    message: str
    span: Span | None = None
    labels: tuple[Label, ...] = ()
    help: tuple[str, ...] = ()
    fix: Fix | None = None

    def to_json(self) -> dict[str, Any]:
        """What it says, without its place."""
        return {"code": self.code, "severity": self.severity.value, "message": self.message, "help": list(self.help)}

    @property
    def is_error(self) -> bool:
        return self.severity is Severity.ERROR

    @property
    def place(self) -> int:
        """The offset in the texts of a recipe laid end to end; -1, before all others, without a span."""
        return self.span.source.base + self.span.start if self.span is not None else -1

    @property
    def exit_code(self) -> int:
        return code_for(self.code).exit_code if self.is_error else 0


class Diagnosed(NamedTuple, Generic[T]):
    """The result of every stage: a value (None when an error prevented it) and the diagnostics found."""

    value: T | None
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def ok(self) -> bool:
        return self.value is not None and not has_errors(self.diagnostics)

    def unwrap(self) -> T:
        """The value; raises `LbdslError` when there are errors."""
        raise_errors(self.diagnostics)
        assert self.value is not None, "a stage without errors returns a value"
        return self.value


def refused(code: str, message: str, span: Span | None = None, **details: Any) -> Diagnosed[Any]:
    """The result of a stage that one error prevented."""
    return Diagnosed(None, (error(code, message, span, **details),))


class LbdslError(Exception):
    """Diagnostics that stop an API call. The command line prints them and exits with `exit_code`."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(_in_a_line, (d for d in self.diagnostics if d.is_error))))

    @property
    def exit_code(self) -> int:
        return max((d.exit_code for d in self.diagnostics), default=1) or 1

    def placed(self, what: str, span: Span | None) -> LbdslError:
        """The same with `what` before each message, at `span` where there is no place."""
        return LbdslError(replace(d, message=f"{what}: {d.message}", span=d.span or span) for d in self.diagnostics)


def _in_a_line(found: Diagnostic) -> str:
    """`LB101: no action `sva` (r.lbr:2:12; did you mean `swa`?)`."""
    span = found.span
    place = () if span is None else (":".join(map(str, (span.source.name, *span.start_line_column))),)
    more = "; ".join((*place, *found.help[:1]))
    return f"{found.code}: {found.message}" + (f" ({more})" if more else "")


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(d.is_error for d in diagnostics)


def raise_errors(diagnostics: tuple[Diagnostic, ...]) -> None:
    """Raise LbdslError with all of them if one is an error."""
    if has_errors(diagnostics):
        raise LbdslError(diagnostics)


def rewrite(span: Span, text: str) -> Fix:
    """The fix that replaces `span` by `text`."""
    return Fix(f"write `{text.strip()}`", (Edit(span, text),))


def _found(
    severity: Severity,
    code: str,
    message: str,
    span: Span | None = None,
    *,
    help: str | tuple[str, ...] | None = None,
    labels: Label | tuple[Label, ...] = (),
    fix: Fix | None = None,
    write: str | None = None,
) -> Diagnostic:
    """A diagnostic; its code must be known to `core.codes`. `write` is a fix, the text that replaces the span, and the help
    where there is no other."""
    code_for(code)
    if write is not None and span is not None:
        fix = rewrite(span, write)
        help = fix.title if help is None else help
    hints = (help,) if isinstance(help, str) else tuple(help or ())
    labels = (labels,) if isinstance(labels, Label) else labels
    return Diagnostic(code, severity, message, span, labels, hints, fix)


error = partial(_found, Severity.ERROR)
warning = partial(_found, Severity.WARNING)
note = partial(_found, Severity.NOTE)


def fail(code: str, message: str, span: Span | None = None, *, help: str | tuple[str, ...] = ()) -> LbdslError:
    """An `LbdslError` with one error, to be raised."""
    return LbdslError([error(code, message, span, help=help)])


def first_line(problem: BaseException) -> str:
    """Of an exception's message, else the name of its class."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
