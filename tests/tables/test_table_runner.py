"""The runner of tables: each row is run once, whatever stops it, and what is kept says how it came about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import check, table

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

TABLE = Table("Squares", {"square": ".1f", "said": ""}, [Row(f"n-{n}", squared(n)) for n in (1, 2, 3)], ("lbdsl/heal",))
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
        "     square  said",
        "n-1     1.0  made",
        "n-2     4.0  made",
        "n-3     9.0  made",
    ]
    assert "[2/3] n-2, about 0.0 min left" in err
    assert table.main(["squares", "--markdown", "--rows", "n-3"]) == 0
    assert "| n-3 | 9.0 | made |" in capsys.readouterr().out
    assert (work / "ran").read_text().split() == ["1", "2", "2", "3"]


def test_a_failing_row_stops_no_other_and_is_run_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "fail-1").touch()
    assert table.main(["squares"]) == 1
    assert "no figure" in capsys.readouterr().err
    assert kept(work) == {"n-2.json", "n-3.json"}
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
    assert capsys.readouterr().out == "done  n-1\ndone  n-2\n-     n-3\n"


def test_a_row_says_how_it_came_about(work: Path) -> None:
    assert table.main(["squares"]) == 0
    row = json.loads((work.parents[1] / "results/squares/n-1.json").read_text())
    assert row["figures"] == {"square": 1, "said": "made"}
    assert row["command"] == "python -m benchmarks.table squares --rows n-1"
    assert set(row) == {"key", "figures", "command", "seconds", "started", "machine", "versions", "used"}
    assert set(row["machine"]) == {"cpu", "cores", "memory_bytes"}
    assert set(row["versions"]) == {"python", "torch", "transformers", "lbdsl", "commit", "dirty"}
    assert row["used"] == []


@pytest.fixture
def checkout(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of git with the table, the code that it measures, and the runner."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = work.parents[1]
    home = root / "benchmarks"
    shutil.copytree(Path(table.__file__).parent, home, ignore=shutil.ignore_patterns("results", "tables", "__pycache__"))
    (root / "tables").rename(home / "tables")
    (root / "lbdsl" / "heal").mkdir(parents=True)
    (root / ".gitignore").write_text("work\nbuild\n__pycache__\n")
    git(root, "init", "-q")
    monkeypatch.setattr(table, "ROOT", root)
    monkeypatch.setattr(table, "HOME", home)
    return root


def git(root: Path, *words: str) -> str:
    named = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *named, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, *words: str) -> str:
    """The commit of a change of the code that is measured, and of all else."""
    with (root / "lbdsl" / "heal" / "loop.py").open("a") as file:
        file.write("\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "more", *words)
    return git(root, "rev-parse", "HEAD")


def test_a_row_carries_the_commit_that_computed_what_it_reads(checkout: Path) -> None:
    """By the command line: there the module that runs is not the one from which tables have `once`."""
    commits, environment = [], {**os.environ, "PYTHONPATH": str(Path(table.__file__).parents[1])}
    for key in ("n-1", "n-2"):
        commits.append(commit(checkout))
        command = [sys.executable, "-m", "benchmarks.table", "squares", "--rows", key]
        subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
    first, second = (table.rows_of("squares")[key] for key in ("n-1", "n-2"))
    assert [first["versions"]["commit"], second["versions"]["commit"]] == commits
    assert first["used"] == []
    assert [used["versions"]["commit"] for used in second["used"]] == commits[:1]


def test_what_is_made_of_what_was_made_has_the_stamps_of_both(checkout: Path) -> None:
    commits = [commit(checkout)]
    table.once(checkout / "work" / "healed", lambda path: path.write_text("healed"))
    commits.insert(0, commit(checkout))
    made = lambda path: path.write_text(table.uses(checkout / "work" / "healed").read_text())  # noqa: E731
    judged = table.once(checkout / "work" / "judged", made)
    assert [each["versions"]["commit"] for each in json.loads(table.stamp_file(judged).read_text())] == commits


def test_what_a_stopped_run_began_is_stamped_too(checkout: Path) -> None:
    def stopped(path: Path) -> None:
        raise KeyboardInterrupt

    commits = [commit(checkout)]
    with pytest.raises(KeyboardInterrupt):
        table.once(checkout / "work" / "healed", stopped)
    commits.append(commit(checkout))
    healed = table.once(checkout / "work" / "healed", lambda path: path.write_text("resumed"))
    assert [each["versions"]["commit"] for each in json.loads(table.stamp_file(healed).read_text())] == commits


def test_what_nobody_knows_the_commit_of_is_not_used(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "base").write_text("of old")
    assert table.main(["squares", "--rows", "n-1"]) == 1
    assert "which commit made it is not known" in capsys.readouterr().err


def test_check_names_rows_of_trees_with_changes_and_of_commits_that_are_gone(checkout: Path) -> None:
    commit(checkout)
    assert table.main(["squares", "--rows", "n-1"]) == 0
    assert [*check.of_tables(), *check.of_commits(known(checkout))] == []
    # n-1 is of a commit that is written over, n-2 of changes, n-3 reads what the first had made.
    commit(checkout, "--amend")
    (checkout / "lbdsl" / "heal" / "more.py").touch()
    assert table.main(["squares", "--rows", "n-2"]) == 0
    commit(checkout)
    assert table.main(["squares", "--rows", "n-3"]) == 0
    found = [*check.of_tables(), *check.of_commits(known(checkout))]
    assert [line.split(":")[0] for line in found] == ["squares/n-2", "squares/n-1", "squares/n-2", "squares/n-3"]


def test_check_names_rows_of_no_table_and_code_that_is_not_there(checkout: Path) -> None:
    commit(checkout)
    assert table.main(["squares", "--rows", "n-1"]) == 0
    results = checkout / "benchmarks" / "results" / "squares"
    (results / "n-9.json").write_text((results / "n-1.json").read_text())
    shutil.rmtree(checkout / "lbdsl" / "heal")
    assert list(check.of_tables()) == [
        "squares/n-9: no row of the table",
        "squares: measures lbdsl/heal, which is not there",
    ]


def test_check_lists_rows_that_are_older_than_their_code(checkout: Path) -> None:
    commit(checkout)
    assert table.main(["squares"]) == 0
    assert list(check.older()) == []
    (checkout / "beside.py").touch()
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "no code that is measured")
    assert list(check.older()) == []
    commit(checkout)
    assert list(check.older()) == ["squares: 3 of 3 rows (commits since: up to 1)"]
    (checkout / "benchmarks" / "results" / "squares" / "n-3.json").unlink()
    assert table.main(["squares"]) == 0
    assert list(check.older()) == ["squares: 3 of 3 rows (commits since: up to 1)"], "it read what was made before"
    shutil.rmtree(table.WORK)
    assert table.main(["squares", "--rows", "n-3", "--redo"]) == 0
    assert list(check.older()) == ["squares: 2 of 3 rows (commits since: up to 1)"]


def test_check_says_why_it_does_not_look_at_the_history(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(checkout)
    commit(checkout)
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{checkout}", str(shallow))
    monkeypatch.setattr(table, "ROOT", shallow)
    assert check.commits() == "this is a shallow clone"
    monkeypatch.setattr(table, "ROOT", shallow / "benchmarks")
    assert check.commits() == "this is no checkout of git"


def known(root: Path) -> set[str]:
    found = check.commits()
    assert isinstance(found, set)
    return found


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
