"""A plan as lines to compare: one a layer, and whatever `Plan.to_json` tells, except digests and lbdsl's version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lbdsl.plan.schema import Plan

LEFT_OUT = {"format_version", "lbdsl_version", "digest", "sha256", "fingerprint", "joint_digest"}


def plan_text(plan: Plan) -> str:
    return "".join(line.rstrip() + "\n" for line in _lines(plan.to_json()))


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    layers, rules, asserts, findings = (plan.pop(name) for name in ("layers", "rules", "asserts", "findings"))
    before, after = plan.pop("before"), plan.pop("after")
    for name, value in plan.items():
        if name not in LEFT_OUT:
            yield f"{name:16} {_words(value)}"
    for name in before:
        yield f"{name:16} {_change(before[name], after[name])}"
    yield f"{'contexts':16} {'/'.join(before['kv_bytes'])}"
    yield from (f"rule {rule.pop('number')}: {rule.pop('text')} | {_words(rule)}" for rule in rules)
    yield from (f"assert {one.pop('text')} | {_words(one)}" for one in asserts)
    yield from (f"{one.pop('severity')} {one.pop('code')}: {one.pop('message')} | {_words(one)}" for one in findings)
    yield ""
    yield from map(_layer, layers)


def _layer(layer: dict[str, Any]) -> str:
    """What becomes of it, by which rules, its costs before -> after, its scores, the reason, and all else that it has."""
    changes = layer.pop("changes")
    del layer["before"], layer["after"]
    parts = [
        f"{layer.pop('index'):2} "
        + (", ".join(_alike({path: _pair(*pair) for path, pair in changes.items()})) or "as in the base"),
        ", ".join(f"{','.join(item['paths'])} {item['action']} by {item['rule']}" for item in layer.pop("actions")),
        *(
            f"{name} {_change(layer.pop(f'{name}_before'), layer.pop(f'{name}_after'))}"
            for name in ("params", "weights", "kv_bytes")
        ),
    ]
    errors = layer.pop("stderr")
    parts += [f"{name} {value:.6g} ±{errors[name]}" for name, value in layer.pop("scores").items()]
    parts += [layer.pop("reason"), _words(layer)]
    return " | ".join(part for part in parts if part)


def _alike(changes: Mapping[str, str]) -> list[str]:
    """The changes by path; paths with the same change are named together."""
    paths: dict[str, list[str]] = {}
    for path, change in changes.items():
        paths.setdefault(change, []).append(path)
    return [f"{' '.join(names)} {change}" for change, names in paths.items()]


def _pair(before: Any, after: Any) -> str:
    return f"({_words(before) or 'none'}) -> ({_words(after) or 'none'})"


def _change(before: Any, after: Any) -> str:
    """Of a number, or of numbers by context."""
    shown = ["/".join(map(str, value.values())) if isinstance(value, Mapping) else str(value) for value in (before, after)]
    return " -> ".join(dict.fromkeys(shown))


def _words(value: Any) -> str:
    """Fields as name=value; what says nothing is left out."""
    if isinstance(value, Mapping):
        fields = ((name, _words(item)) for name, item in value.items() if name not in LEFT_OUT)
        return " ".join(f"{name}={text}" for name, text in fields if text)
    if isinstance(value, list | tuple):
        return ",".join(f"({text})" if " " in text else text for text in map(_words, value))
    return "" if value is None else str(value)
