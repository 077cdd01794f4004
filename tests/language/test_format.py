"""`lbdsl fmt` and its files; what the text looks like is in tests/golden/fmt."""

from __future__ import annotations

import errno
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbdsl.api.formatting import format_file
from lbdsl.cli.fmt import fmt
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.span import Source
from lbdsl.language import format as formatter
from lbdsl.language.format import format_text
from lbdsl.language.parse import parse
from lbdsl.recipe.load import load_recipe

ODD = "layers 0-3   keep; else drop # x"
GOOD = "layers 0-3 keep\nelse drop  # x\n"


def run(*arguments: object, stdin: bytes | str | None = None):
    return CliRunner().invoke(fmt, [str(argument) for argument in arguments], input=stdin)


def test_settings_of_a_stage_are_spaced_as_those_of_its_block() -> None:
    text = "heal { stage match { tokens = 1k; lr = 1 }; lr = 1 }\n"
    assert format_text(text).unwrap() == text


def test_files_are_rewritten_and_keep_their_mode(tmp_path: Path) -> None:
    file, good = tmp_path / "a.lbr", tmp_path / "b.lbr"
    file.write_text(ODD)
    file.chmod(0o640)
    good.write_text(GOOD)
    before = good.stat()
    done = run(file, good)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "1 recipe changed, 1 left as it is\n"
    assert file.read_text() == GOOD
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (good.stat().st_ino, good.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lbr", "b.lbr"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "a.lbr", tmp_path / "link.lbr"
    file.write_text(ODD)
    link.symlink_to(file)
    assert run(link).exit_code == 0
    assert link.is_symlink()
    assert file.read_text() == GOOD


def test_check_and_diff_write_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.lbr"
    file.write_text(ODD)
    done = run(file, "--check")
    assert done.exit_code == 1
    assert done.stderr == f"would change {file}\n1 recipe would change, 0 left as they are\n"
    done = run(file, "--diff")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[2:] == [
        "@@ -1 +1,2 @@",
        "-" + ODD,
        "\\ No newline at end of file",
        "+layers 0-3 keep",
        "+else drop  # x",
    ]
    assert run(file, "--diff", "--check").exit_code == 1
    assert file.read_text() == ODD
    file.write_text(GOOD)
    assert run(file, "--check").exit_code == 0
    assert run(file, "--diff").stdout == ""


def test_standard_input(tmp_path: Path) -> None:
    assert run("-", stdin=ODD).stdout == GOOD
    assert run("-", stdin=GOOD.replace("\n", "\r\n").encode()).stdout_bytes == GOOD.encode()
    done = run("-", "--check", stdin=ODD)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "would change <stdin>\n")
    assert run("-", stdin=b"").stdout == ""


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"layers 3", "LB016"), (b"layers 3 keep\n\xff", "LB020"), (b"#" * (2**21 + 1), "LB019"), (b"else (", "LB002")],
)
def test_files_with_errors_are_left_as_they_are(tmp_path: Path, data: bytes, code: str) -> None:
    file, good = tmp_path / "a.lbr", tmp_path / "b.lbr"
    file.write_bytes(data)
    good.write_text(ODD)
    done = run(file, good)
    assert done.exit_code == 1
    assert code in done.stderr
    assert file.read_bytes() == data
    assert good.read_text() == GOOD


def test_files_that_cannot_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "LB020" in run(tmp_path / "none.lbr").stderr
    assert "LB020" in run(tmp_path).stderr

    def locked(path: Path, data: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.lbr").write_text(ODD)
    monkeypatch.setattr("lbdsl.api.writing.replace_file", locked)
    problem = run(tmp_path / "a.lbr").exception
    assert isinstance(problem, LbdslError)
    assert [d.code for d in problem.diagnostics] == ["LB047"]
    assert (tmp_path / "a.lbr").read_text() == ODD


def test_line_ends_and_the_byte_order_mark_are_normalised(tmp_path: Path) -> None:
    file = tmp_path / "a.lbr"
    for data in (GOOD.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + GOOD.encode(), GOOD.encode()[:-1]):
        file.write_bytes(data)
        assert run(file, "--check").exit_code == 1
        assert run(file).exit_code == 0
        assert file.read_bytes() == GOOD.encode()
    assert format_text("\ufeff" + GOOD.replace("\n", "\r\n")).unwrap() == GOOD


@pytest.mark.parametrize(
    "wrong",
    [
        "else keep\n",
        "layers 0-3 keep\n",
        "layers 0-3 keep\nelse drop\n",
        "layers 0-3 keep\nelse drop  # y\n",
        "layers 0-3 keep\nelse (\n",
    ],
)
def test_nothing_is_given_away_that_says_something_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str
) -> None:
    """Were the formatter to drop a statement or a comment, the comparison would say so, and the file would stay."""
    monkeypatch.setattr(formatter, "_followed", lambda *_: wrong.splitlines())
    found = format_text(ODD)
    assert found.value is None
    assert [problem.code for problem in found.diagnostics] == ["LB040"]
    file = tmp_path / "a.lbr"
    file.write_text(ODD)
    assert run(file).exit_code == 7
    assert file.read_text() == ODD


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ""),
        ("\n\n# a\n\n\n", "# a\n"),
        (";;\n;", ""),
        ("else keep\n;\nelse drop", "else keep\nelse drop\n"),
        ("let $a = - 3", "let $a = -3\n"),
        ("let $a = 2 - - 3", "let $a = 2 - -3\n"),
        ("let $a = 2-3", "let $a = 2 - 3\n"),
        ("layers $a - 3 keep", "layers $a-3 keep\n"),
        ("let $a = - - (3)", "let $a = --(3)\n"),
        ("let $a = [ 1,2, ]", "let $a = [1, 2]\n"),
        ("let $a = f ( )", "let $a = f()\n"),
        ("where a in[1]and not ( b )drop", "where a in [1] and not (b) drop\n"),
        ("param $a: int in 1 ..( b )= 3", "param $a: int in 1..(b) = 3\n"),
        ('recipe "\\"  #  ;  é"', 'recipe "\\"  #  ;  é"\n'),
        ("let $a = 512   tokens==b", "let $a = 512 tokens == b\n"),
        ("heal{}#x", "heal {}  # x\n".replace("# x", "#x")),
        ("heal{;;tokens=1;;}", "heal { tokens = 1 }\n"),
        ("else keep # a\r\n\r\n\r\n# b\r\n", "else keep  # a\n\n# b\n"),
        ("else\tkeep\f", "else keep\n"),
    ],
)
def test_small_texts(text: str, wanted: str) -> None:
    assert format_text(text).unwrap() == wanted
    assert format_text(wanted).unwrap() == wanted


@pytest.mark.large
@pytest.mark.parametrize(
    "text",
    [
        "layers " + ", ".join(str(i) for i in range(2_000)) + " keep",
        "else keep\n" * 1_500,
        "let $a = " + " + ".join(["1"] * 4_000),
        "heal { " + "; ".join(f"k{i} = [{i}, 2]" for i in range(500)) + " }",
        "# c\n" * 4_000 + "else keep",
        "layers 1, # c\n" + "2, # d\n" * 1_500 + "3 keep",
        "let $a = f(" + ", ".join(["1000000000"] * 250) + ", [" + ", ".join(["2000000000"] * 250) + "])",
    ],
)
def test_large_recipes_take_linear_time(text: str) -> None:
    started = time.process_time()
    found = format_text(text).unwrap()
    assert time.process_time() - started < 1.5
    assert max(map(len, found.splitlines())) <= 100
    assert parse(Source("t", found)).unwrap().statements == parse(Source("t", text)).unwrap().statements


def test_nesting_to_the_limit() -> None:
    numbers = ", ".join(["123456789"] * 50)
    for text in (
        "let $a = " + "(" * 60 + "1" + ")" * 60,
        "let $a = " + "f(" * 60 + numbers + ")" * 60,
        "let $a = " + "not " * 60 + "b",
        "layers " + "not (" * 30 + "1, 2" + ")" * 30 + " keep",
    ):
        found = format_text(text).unwrap()
        assert parse(Source("t", found)).unwrap().statements == parse(Source("t", text)).unwrap().statements


@pytest.mark.large
def test_an_editor_formats_200_lines_at_once() -> None:
    text = "".join(
        f"lowest {i} of rest by kl(swa(window={i}, sinks=4)) swa(window={i},sinks=4) # {i}\n" for i in range(200)
    )
    format_text(text)
    times = []
    for _ in range(3):
        started = time.process_time()
        format_text(text).unwrap()
        times.append(time.process_time() - started)
    assert min(times) < 0.3, times


def test_a_file_that_is_not_there_is_said_as_check_says_it(tmp_path: Path) -> None:
    (tmp_path / "quickstart.lbr").write_text("else keep\n")
    missing = tmp_path / "quikstart.lbr"
    assert format_file(missing).diagnostics == load_recipe(missing).diagnostics
    assert "quickstart.lbr" in format_file(missing).diagnostics[0].help[0]
