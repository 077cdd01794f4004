"""`lbdsl completions`: scripts of three shells, and bash asking for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbdsl.cli import VERBS
from lbdsl.cli.app import cli
from lbdsl.cli.completions import topics
from lbdsl.core.codes import code_for

ROOT = Path(__file__).parents[2]

SCRIPT = """
eval "$(lbdsl completions bash)"
complete -p lbdsl
while read -r line; do
    COMP_WORDS=($line); [[ "$line" == *. ]] && COMP_WORDS[-1]=""
    files=""; compopt() { files=$2; }
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=()
    _lbdsl_completion lbdsl
    echo "${COMPREPLY[*]} $files"
done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.lbr", "m.gguf", "sub/x.lbr"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    return tmp_path


def ask_bash(folder: Path, *lines: str) -> list[list[str]]:
    """What bash is offered for each line; its last word is being written, `.` for an empty one."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = folder / ".bin" / "lbdsl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m lbdsl "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    done = subprocess.run(
        [bash, "--norc", "-c", SCRIPT],
        cwd=folder,
        input="".join(line + "\n" for line in lines),
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
        env={"PATH": f"{script.parent}:/usr/bin:/bin", "HOME": str(folder)},
    )
    assert done.stderr == ""
    first, *answers = done.stdout.splitlines()
    assert "_lbdsl_completion" in first
    return [answer.split() for answer in answers]


@pytest.mark.large
def test_bash(folder: Path) -> None:
    answers = ask_bash(
        folder,
        "lbdsl che",
        "lbdsl check .",
        "lbdsl plan a.lbr m",
        "lbdsl check --format j",
        "lbdsl explain sw",
        "lbdsl export sub --to .",
        "lbdsl export sub --to g",
        "lbdsl plan a.lbr m.gguf --target .",
        "lbdsl eval sub --against m",
        "lbdsl cache --prune gg",
    )
    assert answers == [
        ["check"],
        ["default"],
        ["default"],
        ["json"],
        ["swa"],
        ["decilm", "gguf", "granite", "native", "vllm"],
        ["gguf", "granite"],
        ["llamacpp", "transformers", "vllm"],
        ["default"],
        ["gguf"],
    ]


@pytest.mark.parametrize(
    ("shell", "answer"),
    [("bash", "plain,gguf"), ("zsh", "plain\ngguf\nllamacpp"), ("fish", "plain,gguf\tllamacpp")],
)
def test_values_of_an_option_in_each_shell(shell: str, answer: str) -> None:
    # fish sends the word that is being written, the others its number.
    words = {"COMP_WORDS": "lbdsl export out --to gg", "COMP_CWORD": "gg" if shell == "fish" else "4"}
    done = CliRunner().invoke(cli, [], prog_name="lbdsl", env={"_LBDSL_COMPLETE": f"{shell}_complete", **words})
    assert done.output.strip() == answer


@pytest.mark.parametrize(
    ("shell", "sign"),
    [("bash", "complete -o nosort"), ("zsh", "#compdef lbdsl"), ("fish", "complete --no-files --command lbdsl")],
)
def test_scripts(shell: str, sign: str) -> None:
    done = CliRunner().invoke(cli, ["completions", shell])
    assert done.exit_code == 0
    assert sign in done.output
    assert "_LBDSL_COMPLETE" in done.output


def test_unknown_shell() -> None:
    assert CliRunner().invoke(cli, ["completions", "tcsh"]).exit_code == 2


def test_topics_of_explain() -> None:
    def offered_topics(incomplete: str) -> dict[str, str | None]:
        return {item.value: item.help for item in topics(None, None, incomplete)}  # type: ignore[arg-type]

    known = {"swa", "drop", "keep", "nll", "sensitivity", "until", "heal.lr", "model.layers", "tokens", "LB102"}
    assert known <= offered_topics("").keys()
    assert offered_topics("lb102") == {"LB102": code_for("LB102").title}
    assert offered_topics("heal.l").keys() == {"heal.loss", "heal.loss_on", "heal.lr"}


def test_every_verb_completes_its_options() -> None:
    for verb in VERBS:
        done = CliRunner().invoke(
            cli,
            [],
            prog_name="lbdsl",
            env={"_LBDSL_COMPLETE": "bash_complete", "COMP_WORDS": f"lbdsl {verb} --h", "COMP_CWORD": "2"},
        )
        assert done.output.strip() == "plain,--help", verb
