"""What a shell is offered for the arguments of verbs: files by suffix, and the words that `explain` knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

import click
from click.shell_completion import CompletionItem

Offer = Callable[[str], list[CompletionItem[str]]]

_RECIPES = (".lbr",)
_EXCHANGED = (".lbr", ".json", ".yaml", ".yml")


def offer_arguments(verb: str, command: click.Command) -> None:
    """Let the verb's arguments offer what they take. Called only while a shell completes."""
    for param in command.params:
        offer = _by_name(verb, str(param.name)) if isinstance(param, click.Argument) or param.name == "model" else None
        if offer is not None:
            # click asks the parameter itself; an attribute of the object goes before its class's method.
            param.__dict__["shell_complete"] = partial(_asked, offer)


def _asked(offer: Offer, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    return offer(incomplete)


def _by_name(verb: str, name: str) -> Offer | None:
    if verb == "explain":
        return words
    table: Mapping[str, Offer] = {
        "recipe": partial(files, suffixes=_RECIPES),
        "files": partial(files, suffixes=_RECIPES),
        "file": partial(files, suffixes=_EXCHANGED if verb == "convert" else _RECIPES),
        "source": partial(files, suffixes=_EXCHANGED),
        "recipe_or_plan": partial(files, suffixes=(".lbr", ".lbplan")),
        "what": partial(files, suffixes=(".lbplan",)),
        "model": partial(files, suffixes=(".gguf",)),
        "artifact": partial(files, suffixes=()),
    }
    return table.get(name)


def files(incomplete: str, suffixes: tuple[str, ...]) -> list[CompletionItem[str]]:
    """The files with one of the suffixes, and the folders, that `incomplete` begins.

    A shell takes a lone candidate as the whole answer. So where a folder is the only one, what is in it is offered too.
    """
    folder, start = os.path.split(incomplete)
    found = _entries(folder, start, suffixes)
    if len(found) == 1 and found[0].endswith("/"):
        found += [entry for entry in _entries(found[0], "", suffixes) if entry != found[0]]
    return [CompletionItem(entry) for entry in found]


def _entries(folder: str, start: str, suffixes: tuple[str, ...]) -> list[str]:
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as scanned:
            names = sorted((entry.name, entry.is_dir()) for entry in scanned)
    except OSError:
        return []
    return [
        os.path.join(folder, name) + ("/" if is_folder else "")
        for name, is_folder in names
        if name.startswith(start)
        and (start.startswith(".") or not name.startswith("."))
        and (is_folder or name.lower().endswith(suffixes or ("\0",)))
    ]


def words(incomplete: str) -> list[CompletionItem[str]]:
    """Codes, actions, metrics."""
    from lbdsl.actions import actions
    from lbdsl.core.codes import code_for, code_ids
    from lbdsl.metrics import metrics

    start = incomplete.lower()
    known = {**dict.fromkeys(actions(), "action"), "sensitivity": "metric", **dict.fromkeys(metrics(), "metric")}
    found = [CompletionItem(word, help=kind) for word, kind in known.items() if word.startswith(start)]
    return found + [CompletionItem(id, help=code_for(id).title) for id in code_ids() if id.lower().startswith(start)]
