"""Arguments in the wrong place: the message says which, and prints the right command."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbdsl.cli.app import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("my.lbr", "my.lbplan", "model/config.json", "gguf/tiny.Q4_0.gguf", "plain/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("else keep\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str]:
    """The exit code of a command line, and what it wrote on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    return int(str(ended.value.code)), capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("plan model my.lbr", "lbdsl plan my.lbr model"),
        ("plan ./model/ my.lbr -o x.lbplan --all", "lbdsl plan my.lbr model -o x.lbplan --all"),
        ("plan model my.lbr -o my.lbr.lbplan", "lbdsl plan my.lbr model -o my.lbr.lbplan"),
        ("plan gguf my.lbr", "lbdsl plan my.lbr gguf"),
        ("plan gguf/tiny.Q4_0.gguf my.lbr", "lbdsl plan my.lbr gguf/tiny.Q4_0.gguf"),
        ("plan org/name my.lbr", "lbdsl plan my.lbr org/name"),
        ("measure model my.lbr --json", "lbdsl measure my.lbr model --json"),
        ("apply model my.lbr -o out --yes", "lbdsl apply my.lbr model -o out --yes"),
        ("apply model my.lbplan -o out", "lbdsl apply my.lbplan -o out"),
        pytest.param("apply my.lbplan model", "lbdsl apply my.lbplan --model model", marks=pytest.mark.torch),
        ("check model --model my.lbr", "lbdsl check my.lbr --model model"),
        ("check model --model=my.lbr", "lbdsl check my.lbr --model=model"),
        ("check my.lbr model", "lbdsl check my.lbr --model model"),
        ("check model", "lbdsl check RECIPE --model model"),
        ("plan model", "lbdsl plan RECIPE model"),
        ("plan my.lbr", "lbdsl plan my.lbr MODEL"),
        ("apply model", "lbdsl apply RECIPE model"),
        pytest.param("apply my.lbr", "lbdsl apply my.lbr MODEL", marks=pytest.mark.torch),
        ("init my.lbr", "lbdsl init MODEL -o my.lbr"),
        ("init my.lbr model", "lbdsl init model -o my.lbr"),
        ("init model my.lbr", "lbdsl init model -o my.lbr"),
    ],
)
def test_the_right_command_is_printed(folder: Path, capsys: pytest.CaptureFixture[str], written: str, right: str) -> None:
    code, text = said(capsys, written)
    assert code == 2
    # The last line, where click would break none.
    assert text.rstrip().endswith(f": {right}"), text


@pytest.mark.parametrize(
    ("written", "code", "words"),
    [
        ("plan plain my.lbr", 2, "swapped: lbdsl plan my.lbr plain"),
        ("plan plain model", 2, "plain is a folder; a recipe is a .lbr file"),
        ("plan my.lbr my.lbr", 1, "my.lbr is a recipe, not a model"),
        ("inspect my.lbplan", 1, "my.lbplan is a saved plan, not a model"),
        ("inspect gguf/tiny.gguf", 1, "there is gguf/tiny.Q4_0.gguf"),
        ("show my.lbr", 6, "`lbdsl plan my.lbr MODEL -o my.lbplan` saves its plan"),
        pytest.param(
            "export model --to gguf",
            1,
            "`lbdsl apply RECIPE MODEL`, or `lbdsl apply PLAN`, makes one",
            marks=pytest.mark.torch,
        ),
        ("fmt model", 1, "the recipe comes first"),
        ("plan my.lbr model --ctx 8K", 2, "write 8Ki (8192) or 8k (8000)"),
        ("plan my.lbr model --ctx 4ki", 2, "write 4Ki"),
        ("eval model --needle t.csv", 2, "questions are lines of a .jsonl file, and 't.csv' is none"),
        ("eval model --needle 4K", 2, "write 4Ki (4096) or 4k (4000)"),
        ("export model", 2, "`gguf` (llamacpp), `granite` (vllm)"),
        ("export model", 2, "as in `lbdsl export model --to gguf`"),
        ("export model --to llama.cpp", 2, "did you mean `gguf`?"),
        ("export model --to granit", 2, "did you mean `granite`?"),
    ],
)
def test_what_was_meant(folder: Path, capsys: pytest.CaptureFixture[str], written: str, code: int, words: str) -> None:
    assert (found := said(capsys, written))[0] == code
    assert words in " ".join(found[1].split())
