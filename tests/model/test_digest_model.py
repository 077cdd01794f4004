"""A model's digest: it sees every byte, and remembers without being deceived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.files import replace_entry
from lbdsl.model import digest as digest_module
from lbdsl.model.digest import default_cache_dir, file_digest, identity_files, model_digest
from lbdsl.model.source import resolve_source
from tests.model_cases import save_gguf, save_llama, tiny_llama

pytestmark = pytest.mark.torch  # to save models


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    save_llama(tmp_path / "model", shards=True)
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    return resolve_source(str(tmp_path / "model"))


def age(folder: Path):
    """Give the files of a folder an old time of last write, and wait out the time in which hashes are not kept."""
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))


def flip(path: Path, at: int = -1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))


def test_it_is_over_weights_configuration_and_tokenizer(source):
    (source.path / "README.md").write_text("x")
    (source.path / "other.safetensors").write_text("x")
    names = identity_files(source)
    assert names == tuple(sorted(names))
    shards = {p.name for p in source.path.glob("model-*.safetensors")}
    assert set(names) == shards | {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
    }


def test_one_flipped_byte_anywhere_is_seen(source, cache):
    first = model_digest(source, cache)
    assert len(first) == 64
    assert first == model_digest(source, cache)
    seen = {first}
    for name in identity_files(source):
        # The index must stay JSON: the second digit of a number becomes another.
        at = (source.path / name).read_bytes().index(b'"total_size": ') + 15 if name.endswith(".index.json") else -1
        flip(source.path / name, at)
        seen.add(model_digest(source, cache))
        flip(source.path / name, at)
        assert model_digest(source, cache) == first
    assert len(seen) == 1 + len(identity_files(source))


def test_a_flipped_byte_is_seen_in_a_remembered_file_even_with_its_old_time(source, cache, monkeypatch):
    monkeypatch.setattr(digest_module, "_FRESH_NS", -1)
    age(source.path)
    first = model_digest(source, cache)
    shard = sorted(source.path.glob("*.safetensors"))[0]
    flip(shard)
    os.utime(shard, ns=(10**18, 10**18))
    assert model_digest(source, cache) != first


def test_remembered_hashes_are_used_and_not_believed_when_broken(source, cache, monkeypatch):
    monkeypatch.setattr(digest_module, "_FRESH_NS", -1)
    first = model_digest(source, cache)
    entries = list((cache / "hashes").iterdir())
    assert len(entries) == len(identity_files(source))
    path = entries[0]
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "sha256": "0" * 64}))
    assert model_digest(source, cache) != first, "the entry is what is read"
    for text in ("", "{", "[]", "{}", '{"sha256": 5}', json.dumps({"file": entry["file"], "sha256": "short"})):
        path.write_text(text)
        assert model_digest(source, cache) == first
        assert json.loads(path.read_text()) == entry


def test_fresh_files_are_not_remembered(source, cache):
    model_digest(source, cache)
    assert not (cache / "hashes").exists()


def test_a_cache_that_cannot_be_written_only_costs_time(source, cache, monkeypatch):
    monkeypatch.setattr(digest_module, "_FRESH_NS", -1)
    cache.mkdir()
    first = model_digest(source, cache)
    (cache / "hashes").rename(cache / "old")
    (cache / "hashes").write_text("a file in the way")
    assert model_digest(source, cache / "elsewhere") == first
    assert model_digest(source, cache) == first


def test_progress_ends_at_the_total(source, cache):
    calls = []
    model_digest(source, cache, progress=lambda done, total, note="": calls.append((done, total, note)))
    total = sum((source.path / name).stat().st_size for name in identity_files(source))
    assert calls[-1][:2] == (total, total)
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert {c[2] for c in calls} == set(identity_files(source))


def test_a_file_that_changes_while_it_is_read(tmp_path, cache):
    path = tmp_path / "big"
    path.write_bytes(b"x" * 100)

    def meddle(read):
        path.write_bytes(b"y" * 101)

    with pytest.raises(LbdslError) as caught:
        file_digest(path, cache, meddle)
    assert caught.value.diagnostics[0].code == "LB419"


def test_a_renamed_gguf_file_is_the_same_model(tmp_path, cache):
    save_gguf(tmp_path / "a.gguf", tiny_llama())
    first = model_digest(resolve_source(str(tmp_path / "a.gguf")), cache)
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert model_digest(resolve_source(str(tmp_path / "b.gguf")), cache) == first
    flip(tmp_path / "b.gguf")
    assert model_digest(resolve_source(str(tmp_path / "b.gguf")), cache) != first


def test_several_processes_at_once(source, cache):
    """Each hashes and writes the same entries again and again; all agree, and every entry stays whole."""
    code = (
        "import sys; from pathlib import Path; from lbdsl.model import digest as d\n"
        "from lbdsl.model.source import resolve_source\n"
        "d._FRESH_NS = -1; s = resolve_source(sys.argv[1]); c = Path(sys.argv[2]); seen = set()\n"
        "for _ in range(40):\n"
        "    seen.add(d.model_digest(s, c))\n"
        "    for p in (c / 'hashes').iterdir():\n"
        "        p.unlink(missing_ok=True) if p.suffix == '.json' else None\n"
        "print(*seen)"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(source.path), str(cache)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    results = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], results
    assert {out.strip() for out, _ in results} == {model_digest(source, cache)}
    assert not list((cache / "hashes").glob(".*.tmp"))


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "deep" / "file.json"
    replace_entry(path, b"one")
    replace_entry(path, b"two")
    assert path.read_bytes() == b"two"
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        replace_entry(tmp_path / "taken", b"x")
    assert not list(tmp_path.glob(".*.tmp"))


def test_default_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("LBDSL_CACHE_DIR")
    assert default_cache_dir() == tmp_path / "xdg" / "lbdsl"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir() == tmp_path / ".cache" / "lbdsl"
    assert not (tmp_path / ".cache").exists()
