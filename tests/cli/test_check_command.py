"""`lbdsl check`, and how diagnostics are drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click import BadParameter
from click.testing import CliRunner

from lbdsl.cli.check import check
from lbdsl.cli.options import TOKENS
from lbdsl.recipe.load import recipe_from_text
from lbdsl.report.diagnostics import Style, concise_text, diagnostics_text

BAD = "layers 0-3 keep\nwhere sensitvity < 0.1 drop\n"
WARNS = "else swa(window=4k)\nheal {}\nassert nll < 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("good", "else keep\n"), ("bad", BAD), ("warns", WARNS), ("notes", "layers 3 keep\n")):
        (tmp_path / f"{name}.lbr").write_text(text, encoding="utf-8")
    return tmp_path


def run(*arguments: object, stdin: str | None = None):
    return CliRunner().invoke(check, [str(argument) for argument in arguments], input=stdin)


def test_exit_codes(folder: Path) -> None:
    assert run(folder / "good.lbr").exit_code == 0
    assert run(folder / "warns.lbr").exit_code == 0
    assert run(folder / "warns.lbr", "--strict").exit_code == 1
    assert run(folder / "notes.lbr").exit_code == 0
    assert run(folder / "notes.lbr", "--strict").exit_code == 1
    assert run(folder / "good.lbr", folder / "bad.lbr").exit_code == 1
    assert run(folder / "none.lbr").exit_code == 1
    assert run().exit_code == 2
    assert run(folder / "good.lbr", "--format", "xml").exit_code == 2
    assert run(folder / "good.lbr", "--set", "w").exit_code == 2
    assert "1 recipe checked" in run(folder / "good.lbr", folder / "good.lbr").stderr


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("512", 512),
        ("8Ki", 8192),
        ("10k", 10_000),
        ("0", None),
        ("4.5Ki", None),
        ("9" * 5000, None),
        ("9" * 19 + "Gi", None),
        ("-1", None),
        ("", None),
    ],
)
def test_tokens_on_the_command_line(text: str, tokens: int | None) -> None:
    if tokens is not None:
        assert TOKENS.convert(text, None, None) == tokens
    else:
        with pytest.raises(BadParameter):
            TOKENS.convert(text, None, None)


EACH = """
import json, sys
from lbdsl.cli.app import main
for words in json.loads(sys.argv[1]):
    code = 0
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code or 0
    heavy = {"torch", "transformers", "rich", "re2", "numpy"} & {name.partition(".")[0] for name in sys.modules}
    print(json.dumps([code, sorted(heavy)]), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.large
def test_whole_process_exit_codes_and_torch(folder: Path) -> None:
    """The exit code reaches the shell, and neither torch nor transformers is imported on the way; by `check`, nothing else
    that takes long."""
    good, bad = (str(folder / f"{name}.lbr") for name in ("good", "bad"))
    commands = {
        ("check", good): 0,
        ("check", bad): 1,
        ("explain", "LB312"): 0,
        ("explain", "drop"): 0,
        ("convert", good): 0,
        ("convert", "--to", "yaml", good): 0,
        ("fmt", good): 0,
        ("explain", "frobnicate"): 2,
    }
    words = [sys.executable, "-c", EACH, json.dumps(list(commands))]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    said = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    assert [code for code, _ in said] == list(commands.values())
    assert done.returncode == 2
    assert said[1][1] == []
    assert not {"torch", "transformers"} & {*said[-1][1]}


def test_json(folder: Path) -> None:
    done = run(folder / "bad.lbr", folder / "none.lbr", "--format", "json")
    data = json.loads(done.stdout)
    assert data["format_version"] == 1
    first, second = data["diagnostics"]
    assert {key: first[key] for key in ("code", "severity", "line", "column", "end_line", "end_column", "file")} == {
        "code": "LB102",
        "severity": "error",
        "line": 2,
        "column": 7,
        "end_line": 2,
        "end_column": 17,
        "file": str(folder / "bad.lbr"),
    }
    assert first["message"] == "no metric `sensitvity`"
    assert "did you mean `sensitivity`?" in first["help"]
    edit = first["fix"]["edits"][0]
    assert (edit["line"], edit["column"], edit["text"]) == (2, 7, "sensitivity")
    assert (second["code"], second["line"], second["file"]) == ("LB020", None, str(folder / "none.lbr"))
    empty = json.loads(run(folder / "good.lbr", "--format", "json").stdout)
    assert empty == {"format_version": 1, "diagnostics": []}


def test_concise_standard_input_and_set(folder: Path) -> None:
    assert run("-", "--format", "concise", stdin=BAD).stdout == "<stdin>:2:7: error[LB102] no metric `sensitvity`\n"
    text = "param $w: tokens in 1..9 = 3\nelse swa(window=$w)\nheal {}\nassert nll < 1\n"
    assert run("-", "--set", "w=5", stdin=text).exit_code == 0
    assert run("-", "--set", "$w=5", stdin=text).exit_code == 0
    refused = run("-", "--set", "w=50", "--format", "concise", stdin=text).stdout
    assert refused.startswith("the value given for $w: error[LB118]")


def test_rich_text_off_a_terminal_has_no_escapes(folder: Path) -> None:
    done = run(folder / "bad.lbr")
    assert "\x1b" not in done.output
    assert "1 error" in done.stderr
    assert "   ^^^^^^^^^^" in done.stdout


def drawn(text: str, **style: object) -> str:
    return diagnostics_text(recipe_from_text(text, "a.lbr").diagnostics, Style(**style))  # type: ignore[arg-type]


def test_drawing_in_ascii() -> None:
    assert (
        drawn(BAD, unicode=False)
        == """\
error[LB102]: no metric `sensitvity`
 --> a.lbr:2:7
  |
2 | where sensitvity < 0.1 drop
  |       ^^^^^^^^^^
  |
  = help: did you mean `sensitivity`?
  = help: metrics: `influence`, `kl`, `nll`, `recall`, `sensitivity`, `task`
  = fix: write `sensitivity`: `where sensitivity < 0.1 drop`

"""
    )


def test_labels_and_lines_between() -> None:
    text = drawn("let $a = 1\n" + "# more\n" * 9 + "let $a = 2\nlayers $a keep\nelse keep", unicode=False)
    assert " 1 | let $a = 1\n   |     -- first defined here\n...\n11 | let $a = 2\n   |     ^^\n" in text


def test_colours_only_when_asked_for() -> None:
    coloured = drawn(BAD, colour=True)
    assert "\x1b[31;1merror[LB102]\x1b[0m" in coloured
    assert "\x1b]" not in coloured
    assert "\x1b" not in drawn(BAD)


def test_carets_under_wide_and_combining_characters_and_tabs() -> None:
    for before, columns in (("你好", 4), ("e\u0301", 1), ("\t", 4), ("ab", 2)):
        text = drawn(f'recipe "{before}" ?', unicode=False).splitlines()
        assert text[4] == "  | " + " " * (8 + columns + 2) + "^"


def test_long_lines_are_cut_to_the_width() -> None:
    text = drawn('else keep because "' + "x" * 300 + '" ?' + " " * 100, width=60, unicode=False)
    assert max(map(len, text.splitlines())) <= 60
    assert "?" in text.splitlines()[3]
    assert text.splitlines()[3].index("?") == text.splitlines()[4].index("^")


def test_control_characters_of_a_recipe_do_not_reach_the_terminal() -> None:
    hostile = "layers \x1b[2J\u202e3 keep\nelse \x07"
    result = recipe_from_text(hostile, "na\x1bme.lbr")
    for text in (diagnostics_text(result.diagnostics, Style()), concise_text(result.diagnostics)):
        assert not any(char in text for char in "\x1b\x07\u202e")


def test_a_reader_that_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "lbdsl", "explain", "swa"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (RuntimeError("odd"), 7, "a bug of lbdsl"),
        (type("OutOfMemoryError", (RuntimeError,), {})(), 1, "LB481"),
        (KeyboardInterrupt(), 130, "the same command continues from there"),
    ],
)
def test_what_nothing_expects(
    problem: BaseException, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from lbdsl.cli.app import main

    def broken(*words: object, **more: object) -> None:
        raise problem

    monkeypatch.delenv("LBDSL_TRACEBACK", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("lbdsl.api.planning.plan_recipe", broken)
    (tmp_path / "r.lbr").write_text("else keep\n")
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(tmp_path / "r.lbr"), str(tmp_path)])
    assert ended.value.code == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert len(list(tmp_path.glob("lbdsl-*.log"))) == (code == 7)
