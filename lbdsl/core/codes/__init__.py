"""The table of diagnostic codes; `explain` and the reference page are made from it.

One file a band: LB0xx syntax, LB1xx names and types, LB2xx rules, LB3xx plan against model, LB4xx safety and
execution, LB5xx exports. An action, metric or exporter with codes of its own registers them with `register` when it is
discovered.
"""

from __future__ import annotations

from collections.abc import Iterable

from lbdsl.core.codes import lb0_syntax, lb1_includes, lb1_names, lb2_modules, lb2_rules, lb3_plan, lb4_safety, lb5_export
from lbdsl.core.codes.code import Code

_TABLE: dict[str, Code] = {}


def register(codes: Iterable[Code]) -> None:
    """Add codes; the same code twice with another meaning is our own bug."""
    for code in codes:
        assert _TABLE.get(code.id, code) == code, f"{code.id} is defined twice"
        _TABLE[code.id] = code


def code_for(id: str) -> Code:
    """The code called `id`; KeyError is a bug of the caller."""
    return _TABLE[id]


def all_codes() -> tuple[Code, ...]:
    return tuple(_TABLE[id] for id in sorted(_TABLE))


for _band in (lb0_syntax, lb1_names, lb1_includes, lb2_rules, lb2_modules, lb3_plan, lb4_safety, lb5_export):
    register(_band.CODES)
