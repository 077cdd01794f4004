"""The base of tree nodes: frozen records, as `dataclass(frozen=True)` makes them.

The tree has fifty kinds of node, and `dataclasses` takes 15 ms to generate their methods at import, a tenth of what
`check` may take in all. Here one `__init__`, `__eq__` and `__repr__` serve all of them.
"""

from __future__ import annotations

from typing import Any, ClassVar, dataclass_transform

from lbdsl.core.span import Span


@dataclass_transform(frozen_default=True)
class Record:
    """A frozen record with the fields that its class annotates, in order. Its first field takes no part in
    comparisons."""

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = (*cls._fields, *(name for name in cls.__annotations__ if name not in cls._fields))

    def __init__(self, *values: Any) -> None:
        fields = type(self)._fields
        assert len(values) == len(fields), f"{type(self).__name__} has {len(fields)} fields, {len(values)} given"
        self.__dict__.update(zip(fields, values, strict=True))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def _key(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in type(self)._fields[1:])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Record) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in type(self)._fields[1:])
        return f"{type(self).__name__}({fields})"


class Node(Record):
    """Base of tree nodes. `span` says where a node stands; two nodes are equal when they say the same."""

    span: Span
