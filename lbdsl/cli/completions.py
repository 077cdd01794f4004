"""`lbdsl completions SHELL`: the script that completes lbdsl's verbs, options and arguments in a shell."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_LBDSL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completions(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: eval "$(lbdsl completions bash)" in ~/.bashrc
    zsh:  eval "$(lbdsl completions zsh)" in ~/.zshrc, after compinit
    fish: lbdsl completions fish > ~/.config/fish/completions/lbdsl.fish
    """
    from click.shell_completion import get_completion_class

    from lbdsl.cli.app import cli

    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    click.echo(found(cli, {}, "lbdsl", VARIABLE).source())
