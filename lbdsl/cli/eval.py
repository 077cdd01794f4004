"""`lbdsl eval ARTIFACT|MODEL`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lbdsl.cli.options import FILE, NEEDLE, PICTURE, TOKENS, against_option, json_option, measuring_options


@click.command(name="eval")
@click.argument("artifact", metavar="ARTIFACT|MODEL", type=FILE)
@against_option(help="For an artifact: its base, or another model; default: the one in its record.")
@click.option(
    "--data",
    multiple=True,
    help="Text to judge on; may be repeated. Default: the recipe's `eval` block, of a model builtin:wikitext.",
)
@click.option("--tokens", type=TOKENS, help="Tokens to judge on; four sequences are the fewest.")
@click.option("--seq", type=TOKENS, help="Tokens a sequence.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    help="Benchmark to ask: a name, or a YAML file here; may be repeated. "
    "Default: the recipe's. What asserts name is always asked.",
)
@click.option("--limit", type=click.IntRange(2), help="The most questions of each benchmark.")
@click.option(
    "--needle",
    type=NEEDLE,
    multiple=True,
    help="Tokens of a text to find facts in, or a .jsonl file of questions; may be repeated. Default: the recipe's.",
)
@click.option(
    "--needle-texts", type=click.IntRange(2), help="How many of them for each length. Default: the recipe's, or 8."
)
@click.option("-o", "--output", type=PICTURE, help="Draw the needles' heat map here.")
@json_option
@measuring_options
@click.pass_context
def command(
    ctx: click.Context, artifact: str, against: str | None, output: Path | None, as_json: bool, **asked: Any
) -> None:
    """Perplexity, KL to the base and top-1 agreement of ARTIFACT, its answers, with standard errors, and its asserts.

    Of a MODEL that is no artifact its own perplexity and answers, as what an artifact of it can be asked.
    """
    from lbdsl.api.evaluating import evaluate_artifact, evaluate_model
    from lbdsl.artifact.contents import RECORD_FILE
    from lbdsl.cli.output import give, show_diagnostics, tell

    if os.path.lexists(Path(artifact) / RECORD_FILE):
        judged = evaluate_artifact(artifact, against=against, **asked)
    elif against is not None:
        raise click.UsageError(f"--against is for an artifact, and {artifact} has no lbdsl.json", ctx)
    else:
        judged = evaluate_model(artifact, **asked)
    show_diagnostics(judged.diagnostics)
    give(judged, as_json)
    if output is not None:
        from lbdsl.artifact.needle import draw_needles, needles_in

        if needles_in(judged.quality):
            draw_needles(needles_in(judged.quality), output)
            asked["progress"].say(f"Drew {output}")
        else:
            tell(f"{output} is not drawn: it shows needles, and none were asked; add --needle 4Ki")
    ctx.exit(judged.exit_code)
