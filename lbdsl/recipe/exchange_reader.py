"""Checks of a recipe's JSON before it is converted to text: keys, plain values, and text in the recipe language. All
errors are found in one run, each with its path."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from lbdsl.core.nearest import nearest
from lbdsl.core.span import Source
from lbdsl.language.format import canonical_part
from lbdsl.language.parse import parse
from lbdsl.recipe.scope import Findings, T, Unresolved, each, meant_words


@dataclass
class JsonReader(Findings):
    """Collects errors; an invalid value raises `Unresolved`.

    Errors: LB042 unknown keys, LB043 missing keys and invalid values, LB044 text that does not parse.
    """

    name: str

    def wrong(self, path: str, message: str, *, help: str | tuple[str, ...] = ()) -> None:
        """LB043 at a path."""
        self.error("LB043", f"{self.name}: {f'`{path}`: ' if path else ''}{message}", None, help=help)

    def refuse(self, path: str, message: str, *, help: str | tuple[str, ...] = ()) -> NoReturn:
        """LB043 for a value that cannot be read."""
        self.wrong(path, message, help=help)
        raise Unresolved

    def unknown_key(self, path: str, key: str, known: Iterable[str]) -> None:
        """LB042 at a path, with suggestions."""
        names = list(known)
        hints = [*meant_words(key, names)[0]]
        hints += ["keys: " + ", ".join(f"`{name}`" for name in names)] if names else []
        where = f"`{path}` has no key" if path else "no key"
        self.error("LB042", f"{self.name}: {where} `{key}`", None, help=tuple(hints))

    def check_keys(self, known: Collection[str], required: Collection[str], data: dict[str, Any], path: str) -> None:
        """Fail when keys are unknown or missing."""
        unknown = [key for key in data if key not in known]
        for key in unknown:
            self.unknown_key(path, key, known)
        # A misspelt key is not reported as missing, too.
        meant = {nearest(key, known) for key in unknown}
        missing = [key for key in known if key in required and key not in data and key not in meant]
        for key in missing:
            self.wrong(path, f"needs `{key}`")
        if unknown or missing:
            raise Unresolved

    def parsed(self, before: str, data: Any, path: str) -> tuple[Any, str]:
        """The statement `before` + data, and the canonical text of `data`; LB044 at an error in `data`."""
        if not isinstance(data, str):
            self.refuse(path, "must be text in the recipe language")
        source = Source(f"{self.name}: {path}", data)
        file, found = parse(Source("", before + data))
        problem = next((problem for problem in found if problem.is_error), None)
        if problem is not None:
            start, end = (problem.span.start, problem.span.end) if problem.span else (len(before), len(before))
            span = source.span(max(0, start - len(before)), max(0, end - len(before)))
            # The form of the statement that `before` begins would only confuse.
            hints = [text for text in problem.help if not text.startswith("the form is")]
            if path.endswith((".data", ".default", ".value")) and '"' not in data:
                hints.append(f'a string is written as {{"text": "{data}"}}')
            self.fail("LB044", problem.message, span, help=tuple(hints))
        if file is None or len(file.statements) != 1 or file.comments:
            message = f"{self.name}: `{path}` must hold one expression and nothing else"
            self.fail("LB044", message, source.span(0, len(data)))
        return file.statements[0], canonical_part(before, data)


def each_item(read: Callable[[Any, str], T], data: list[Any], path: str) -> tuple[T, ...]:
    """The items of a list, each read at its own path."""
    return each(lambda item: read(item[1], f"{path}[{item[0]}]"), enumerate(data))
