"""`lbdsl completions SHELL`: the shell completion script, and the completion of arguments.

click completes commands and options; an argument uses one of the functions here as its `shell_complete`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import click
from click.shell_completion import CompletionItem, get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completions(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: eval "$(lbdsl completions bash)" in ~/.bashrc
    zsh:  eval "$(lbdsl completions zsh)" in ~/.zshrc, after compinit
    fish: lbdsl completions fish > ~/.config/fish/completions/lbdsl.fish
    """
    from lbdsl.cli.app import cli

    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    click.echo(found(cli, {}, "lbdsl", "_LBDSL_COMPLETE").source())


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def _files_with(*suffixes: str) -> Completer:
    return lambda ctx, param, incomplete: files(incomplete, suffixes)


RECIPES = _files_with(".lbr")
RECIPES_OR_PLANS = _files_with(".lbr", ".lbplan")
PLANS = _files_with(".lbplan")
EXCHANGED = _files_with(".lbr", ".json", ".yaml", ".yml")
MODELS = _files_with(".gguf")
FOLDERS = _files_with()


def topics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The topics of `explain`; diagnostic codes with their titles."""
    from lbdsl.core.codes import code_for, code_ids
    from lbdsl.report.explain import topics_by_kind

    start, ids = incomplete.lower(), code_ids()
    named = [(kind, name) for kind, names in topics_by_kind() for name in names if name.lower().startswith(start)]
    return [CompletionItem(name, help=code_for(name).title if name in ids else kind) for kind, name in named]


def export_kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The formats of `export`, each with its engine."""
    from lbdsl.export import exporters

    return [CompletionItem(kind, help=of.engine) for kind, of in exporters().items() if kind.startswith(incomplete)]


def engines(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The engines of `plan --target`."""
    from lbdsl.session import targets

    return [CompletionItem(engine) for engine in targets.engines() if engine.startswith(incomplete)]


def files(incomplete: str, suffixes: tuple[str, ...]) -> list[CompletionItem[str]]:
    """The files with one of the suffixes, and the folders, whose path starts with `incomplete`.

    A shell accepts a single candidate as final. So when that is a folder, its contents are offered too.
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
