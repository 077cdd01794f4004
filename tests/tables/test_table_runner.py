"""The runner of tables: each row is run once, whatever stops it, and what is kept says how it came about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import table

TABLE = """
from benchmarks.table import Row, Table, once

def squared(number):
    def run(work):
        base = once(work / "base", lambda path: path.write_text("made\\\\n"))
        with (work / "ran").open("a") as ran:
            ran.write(f"{number}\\\\n")
        if (work / f"stop-{number}").exists():
            raise KeyboardInterrupt
        if (work / f"fail-{number}").exists():
            raise ValueError("no figure")
        return {"square": number**2, "said": base.read_text().strip()}
    return run

COMMAND = "import sys, json; print('loading'); print(json.dumps({'square': 36.0, 'work': sys.argv[1]}))"
TABLE = Table(
    "Squares",
    {"square": ".1f", "said": ""},
    [*(Row(f"n-{n}", squared(n)) for n in (1, 2, 3)), Row("command", ("{python}", "-c", COMMAND, "{work}"))],
)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(table, "HOME", tmp_path)
    monkeypatch.setattr(table, "WORK", tmp_path / "work")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "squares.py").write_text(TABLE.replace("\\\\", "\\"))
    (tmp_path / "work" / "squares").mkdir(parents=True)
    return tmp_path / "work" / "squares"


def kept(work: Path) -> set[str]:
    return {path.name for path in (work.parents[1] / "results" / "squares").glob("*")}


def test_a_stopped_table_goes_on_where_it_was(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "stop-2").touch()
    assert table.main(["squares"]) == 130
    assert kept(work) == {"n-1.json"}
    assert "stopped in n-2" in capsys.readouterr().err
    (work / "stop-2").unlink()
    assert table.main(["squares"]) == 0
    assert (work / "ran").read_text().split() == ["1", "2", "2", "3"]
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "Squares",
        "         square  said",
        "n-1         1.0  made",
        "n-2         4.0  made",
        "n-3         9.0  made",
        "command    36.0",
    ]
    assert "[2/4] n-2, about 0.0 min left" in err
    assert table.main(["squares", "--markdown", "--rows", "n-3"]) == 0
    assert "| n-3 | 9.0 | made |" in capsys.readouterr().out
    assert (work / "ran").read_text().split() == ["1", "2", "2", "3"]


def test_a_failing_row_stops_no_other_and_is_run_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "fail-1").touch()
    assert table.main(["squares"]) == 1
    assert "no figure" in capsys.readouterr().err
    assert kept(work) == {"n-2.json", "n-3.json", "command.json"}
    (work / "fail-1").unlink()
    assert table.main(["squares"]) == 0
    assert (work / "ran").read_text().split() == ["1", "2", "3", "1"]


def test_only_the_rows_that_were_asked_for_are_listed_run_and_redone(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["squares", "--rows", "n-[12]"]) == 0
    assert table.main(["squares", "--rows", "n-2", "--redo"]) == 0
    assert (work / "ran").read_text().split() == ["1", "2", "2"]
    capsys.readouterr()
    assert table.main(["squares", "--list"]) == 0
    assert capsys.readouterr().out == "done  n-1\ndone  n-2\n-     n-3\n-     command\n"


def test_a_row_says_how_it_came_about(work: Path) -> None:
    assert table.main(["squares"]) == 0
    function, command = (
        json.loads((work.parents[1] / f"results/squares/{key}.json").read_text()) for key in ("n-1", "command")
    )
    assert function["figures"] == {"square": 1, "said": "made"}
    assert function["command"] == "python -m benchmarks.table squares --rows n-1"
    assert command["figures"] == {"square": 36.0, "work": str(work)}
    assert command["command"].startswith("python -c ")
    assert command["command"].endswith(" build/tables/squares")
    assert set(function) == {"key", "figures", "command", "started", "seconds", "machine", "versions"}
    assert set(function["machine"]) == {"cpu", "cores", "memory_bytes", "os"}
    assert set(function["versions"]) == {"python", "torch", "transformers", "lbdsl", "commit", "dirty"}


def test_keys_are_files_and_differ() -> None:
    with pytest.raises(ValueError, match="cannot be a file's name"):
        table.Row("../x", ())
    with pytest.raises(ValueError, match="one key"):
        table.Table("t", {}, [table.Row("a", ()), table.Row("a", ())])


def test_what_is_made_once_is_whole_or_not_there(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.once(tmp_path / "a", broken)
    assert not (tmp_path / "a").exists()
    assert table.once(tmp_path / "a", lambda path: path.write_text("whole")).read_text() == "whole"
    assert table.once(tmp_path / "a", broken).read_text() == "whole"


def test_what_a_row_made_is_forgotten_with_it(tmp_path: Path) -> None:
    keys = ("mix-200k", "mix-200k-s1", "mix")
    for key in keys:
        (tmp_path / key).mkdir()
        (tmp_path / f"{key}.json").touch()
    table.forget(tmp_path, "mix-200k", keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mix", "mix-200k-s1", "mix-200k-s1.json", "mix.json"]
