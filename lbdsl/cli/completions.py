"""`lbdsl completions SHELL`: the shell completion script, and the completion of arguments.

click completes commands, options and files; other arguments use one of the functions here as their `shell_complete`.
"""

from __future__ import annotations

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
