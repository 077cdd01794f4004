"""What messages, codes and pages advise exists: flags of lbdsl, by verb where the verb is named."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click

from lbdsl.cli import VERBS

ROOT = Path(__file__).parents[2]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
COMMAND = re.compile(rf"lbdsl ({'|'.join(VERBS)})\b([^`\n]*)")
OF_OTHERS = {
    "--no-deps",
    "--locked",
    "--stdio",
    "--help",
    "--version",
    "--in-place",
    "--tensor-type",
    "--gpu-memory-utilization",
    "--kv-cache-dtype",
    "--tensor-parallel-size",
    "--kv-cache-dtype-skip-layers",
    "--token-embedding-type",
    "--output-tensor-type",
}


def options(verb: str) -> set[str]:
    module = importlib.import_module(f"lbdsl.cli.{verb}")
    command = getattr(module, "command" if verb == "eval" else verb)
    assert isinstance(command, click.Command)
    return {opt for param in command.params for opt in param.opts} | {"--help", "-h"}


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)


SOURCES = sorted((ROOT / "lbdsl").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def test_flags_in_messages_exist() -> None:
    every = set().union(*map(options, VERBS)) | OF_OTHERS
    # Workers speak to engines, in their words.
    for path in (path for path in SOURCES if "workers" not in path.parts):
        for text in strings(path):
            assert not {flag for flag in FLAG.findall(text) if flag not in every}, (path, text)
            check_commands(text)


def test_flags_of_commands_on_pages_exist() -> None:
    for path in PAGES:
        check_commands(path.read_text(encoding="utf-8"))


def check_commands(text: str) -> None:
    for verb, rest in COMMAND.findall(text):
        unknown = set(FLAG.findall(rest.split("#")[0])) - options(verb)
        assert not unknown, f"lbdsl {verb} has no {', '.join(unknown)}: {rest}"


def test_every_verb_that_shows_a_plan_can_list_all_its_layers() -> None:
    for verb in ("plan", "show", "apply"):
        assert "--all" in options(verb)


EDITORS = [path for path in (ROOT / "editors").rglob("*") if path.suffix in (".md", ".js", ".json") and path.is_file()]


def test_nothing_says_to_install_lbdsl_from_an_index() -> None:
    """There is no release: another project may take the name."""
    for path in [*SOURCES, *PAGES, *EDITORS]:
        text = path.read_text(encoding="utf-8").replace('\\"', '"')
        assert not re.search(r"pip install (--?[\w-]+ )*[\"']?lbdsl\b", text), path
