"""Through which files a recipe passes while it is planned: `python -m benchmarks.flow`.

Every call under `lbdsl/` that gets a recipe (or a value that holds one: a case, a session) as an argument, in the order of
the calls. Printed are the files in that order, how many there are, and how often a file is entered again that had been left.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 128; seq = 32 }
lowest 1 by nll(swa(window=8)) swa(window=8)
lowest 1 of rest by kl(drop) drop
else keep
heal { tokens = 1Ki; seq = 32 }
assert kv(32) <= 100%
"""


def entered() -> list[str]:
    """The files, one a call, without repetitions in a row."""
    sys.path.insert(0, str(ROOT))
    import lbdsl
    from lbdsl.recipe.schema import Recipe
    from tests.tiny_model import save_tiny_model

    found: list[str] = []

    def holds(value: Any) -> bool:
        return isinstance(value, Recipe) or any(
            isinstance(part, Recipe) for part in getattr(value, "__dict__", {}).values()
        )

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or "/lbdsl/" not in code.co_filename or code.co_name.startswith("<"):
            return
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(holds(frame.f_locals.get(name)) for name in arguments):
            name = code.co_filename.partition("/lbdsl/")[2]
            if not found or found[-1] != name:
                found.append(name)

    with tempfile.TemporaryDirectory() as folder:
        recipe, model = Path(folder, "flow.lbr"), Path(folder, "model")
        recipe.write_text(RECIPE)
        save_tiny_model(model)
        options = lbdsl.RunOptions(cache_dir=Path(folder, "cache"), recall=False)
        sys.setprofile(watch)
        try:
            lbdsl.plan_recipe(recipe, model, options=options)
        finally:
            sys.setprofile(None)
    return found


def returns(files: list[str]) -> Iterator[str]:
    """Those that are entered again."""
    for at, name in enumerate(files):
        if name in files[:at]:
            yield name


def main() -> None:
    files = entered()
    print("\n".join(files))
    print(f"{len(set(files))} files, {len(list(returns(files)))} returns")


if __name__ == "__main__":
    main()
