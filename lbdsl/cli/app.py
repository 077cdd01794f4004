"""The command line: the click group, whose commands are imported only when they are called."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from lbdsl.cli import VERBS
from lbdsl.cli.config import use_written_names
from lbdsl.core.printed import visible
from lbdsl.core.processes import Killed, process_number

if TYPE_CHECKING:
    from lbdsl.core.diagnostic import LbdslError


class LazyGroup(click.Group):
    """A group whose commands live in `lbdsl.cli.<verb>` and are imported on use: `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"lbdsl.cli.{cmd_name}")
        command = getattr(module, "command" if cmd_name == "eval" else cmd_name)
        # Not earlier: a broken file must not keep `lbdsl --help` from its answer.
        ctx.default_map = {cmd_name: use_written_names(command, cmd_name)}
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader has closed the pipe, as with `| head`: that is no error, and click would end with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from lbdsl.core.nearest import nearest

            near = nearest(args[0], VERBS)
            hint = f" Did you mean '{near}'?" if near else f" Verbs: {', '.join(VERBS)}."
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lbdsl", message="lbdsl %(version)s")
def cli() -> None:
    """Compress language models by a recipe: measure, plan, change, heal, evaluate and save."""


def main(argv: list[str] | None = None) -> None:
    """Entry point. Ends the process with one of the documented exit codes."""
    from lbdsl.cli.output import show_logs_as_text
    from lbdsl.core.diagnostic import LbdslError, fail

    show_logs_as_text()
    if process_number():
        # The first process says it all.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        # With standalone_mode=False click returns the code that a command passed to `ctx.exit`.
        result = cli.main(args=argv, prog_name="lbdsl", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as problem:
        said = io.StringIO()
        problem.show(said)
        click.echo(visible(said.getvalue()), nl=False, err=True)
        code = 2
    except LbdslError as problem:
        code = _told(problem)
    except (KeyboardInterrupt, click.Abort) as problem:
        measuring = (sys.argv[1:] if argv is None else argv)[:1] in (["measure"], ["plan"], ["calibrate"])
        # click makes one of the other.
        killed = isinstance(problem.__cause__ or problem, Killed)
        kept = "; what was measured is kept, and the same command continues from there" if measuring else ""
        click.echo(("terminated" if killed else "interrupted") + kept, err=True)
        code = 128 + (signal.SIGTERM if killed else signal.SIGINT)
    except Exception as problem:
        if type(problem).__name__ == "OutOfMemoryError":
            help = ("lower --batch, or `batch` and `seq` in the recipe", "or run with --device cpu")
            code = _told(fail("LB481", "the device has too little memory", help=help))
        elif os.environ.get("LBDSL_TRACEBACK"):
            raise
        else:
            code = _internal_bug(problem)
    sys.stdout.flush()
    sys.exit(code)


def _told(problem: LbdslError) -> int:
    from lbdsl.cli.output import show_diagnostics

    show_diagnostics(problem.diagnostics)
    return problem.exit_code


def _internal_bug(problem: Exception) -> int:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="lbdsl-", suffix=".log", delete=False) as log:
        log.write(traceback.format_exc())
    said = f"internal error: {type(problem).__name__}: {problem}"
    click.echo(f"{visible(said)}\n  this is a bug of lbdsl; the traceback is in {log.name}", err=True)
    return 7
