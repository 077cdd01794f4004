"""Through which files a recipe passes while it is planned: `python -m benchmarks.flow`.

Every call under `lbdsl/` that is handed a recipe (or a value that holds one: a case, a session), in the order of the
calls. Printed are the files in that order, how many there are, and how often one is entered again that had been left.
"""

from __future__ import annotations

import importlib
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
    from lbdsl.session.session import Session
    from lbdsl.solve.case import Case

    save_tiny_model = importlib.import_module("tests.tiny_model").save_tiny_model

    found: list[str] = []

    def holds(value: Any) -> bool:
        parts = list(getattr(value, "__dict__", {}).values())
        return any(isinstance(part, Recipe | Case | Session) for part in (value, *parts))

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or "/lbdsl/" not in code.co_filename or code.co_name.startswith("<"):
            return
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(name != "self" and holds(frame.f_locals.get(name)) for name in arguments):
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
