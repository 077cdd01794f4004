"""Read untrusted JSON: `config.json` and a shard index."""

from __future__ import annotations

import json
import math
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail

SIZE_CAP = 64 * 2**20
"""Maximum size in bytes; the largest known shard index is a few MiB."""


def read_json_object(path: Path, code: str = "LB402") -> dict[str, Any]:
    """The object in a JSON file. Raises LbdslError with `code` if it is missing, too large or not an object.

    NaN and infinities are refused: JSON does not have them but Python's parser accepts them, and no setting needs them; so
    are numbers of which a float is infinite.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would block until there is a writer, and a device file may be endless.
            raise fail(code, f"{path.name} is not a regular file")
        if status.st_size > SIZE_CAP:
            raise fail(code, f"{path.name} has {status.st_size} bytes; at most {SIZE_CAP} are read")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise fail(code, f"{path.name} is not UTF-8 text") from problem
    except OSError as problem:
        raise fail(code, f"cannot read {path}: {problem.strerror}") from problem
    try:
        value = json.loads(
            text, object_pairs_hook=unique_keys, parse_constant=no_constant, parse_int=short_int, parse_float=finite_float
        )
    except json.JSONDecodeError as problem:
        raise fail(code, f"{path.name} is not JSON: {problem.msg} in line {problem.lineno}") from problem
    except (ValueError, RecursionError) as problem:
        raise fail(code, f"{path.name} is not usable JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise fail(code, f"{path.name} is a JSON {type(value).__name__}, not an object")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys: Python keeps the last value and other parsers the first, so the meaning is ambiguous."""
    result = dict(pairs)
    if len(result) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key `{twice[:40]}` appears twice in one object")
    return result


def no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def short_int(digits: str) -> int:
    """The largest that is in use is the 10^30 of tokenizers without a length."""
    if len(digits) > 64:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def finite_float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"it holds {digits[:40]}")
    return value


def check_positive(config: Mapping[str, Any], field: str) -> None:
    """Raise LbdslError with LB402 if the field is present and neither null nor a positive finite number."""
    value = config.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf):
        raise fail("LB402", f"{field} in the configuration is {str(value)[:40]}, not a positive number")
