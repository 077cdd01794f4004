"""Rewriting checkpoints on disk: the same tensors, fewer, renamed or cast, and links where nothing changes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from lbdsl.core.diagnostic import LbdslError
from lbdsl.model.checkpoint import INDEX, SINGLE, read_tensors
from lbdsl.run import copying
from lbdsl.run.copying import copy_range, link_or_copy
from lbdsl.run.file_layout import plan_rewrite
from lbdsl.run.shards import carry_out
from tests.model_cases import save_llama, write_safetensors

pytestmark = pytest.mark.torch  # to save models


def tensors(folder: Path) -> dict[str, np.ndarray]:
    loaded: dict[str, np.ndarray] = {}
    for file in folder.glob("*.safetensors"):
        loaded |= load_file(file)
    assert set(loaded) == set(read_tensors(folder))
    return loaded


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


@pytest.fixture(params=[False, True], ids=["one file", "shards"])
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    save_llama(tmp_path / "source", shards=request.param)
    (tmp_path / "out").mkdir()
    return tmp_path / "source"


@pytest.fixture
def out(source: Path) -> Path:
    return source.with_name("out")


def rewritten(source, out, *, cast=None, progress=None, **changes):
    return carry_out(plan_rewrite(source, **changes), out, cast=cast, progress=progress)


def test_nothing_changed_is_only_links(source, out):
    names = rewritten(source, out)
    assert equal(tensors(out), tensors(source))
    for file in out.glob("*.safetensors"):
        assert os.path.samefile(file, source / file.name)
    assert {path.name for path in out.iterdir()} == set(names)
    assert (out / INDEX).exists() == (source / INDEX).exists()


def test_dropped_and_renamed(source, out):
    before = {file: file.read_bytes() for file in source.iterdir()}

    drop = {name for name in read_tensors(source) if name.startswith("model.layers.1.self_attn.")}
    rename = {"model.norm.weight": "model.last_norm.weight"}
    seen = []
    names = rewritten(
        source, out, drop=drop, rename=rename, progress=lambda done, total, note="": seen.append((done, total, note))
    )
    expected = {rename.get(name, name): value for name, value in tensors(source).items() if name not in drop}
    assert equal(tensors(out), expected)
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert seen[-1][0] == seen[-1][1]
    assert {file: file.read_bytes() for file in source.iterdir()} == before, "the source is only read"
    for file in out.glob("*.safetensors"):
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
    touched = {read_tensors(source)[name].file for name in tensors(source) if name in drop or name in rename}
    linked = {os.stat(file).st_ino for file in out.glob("*.safetensors")} & {os.stat(file).st_ino for file in before}
    assert len(linked) == len({info.file for info in read_tensors(source).values()} - touched)


def test_shards_without_tensors_are_left_out_and_the_rest_numbered(tmp_path):
    save_llama(tmp_path / "source", shards=True)
    (tmp_path / "out").mkdir()
    infos = read_tensors(tmp_path / "source")
    files = sorted({info.file for info in infos.values()})
    gone = {name for name, info in infos.items() if info.file in (files[0], files[2])}
    names = rewritten(tmp_path / "source", tmp_path / "out", drop=gone)
    left = len(files) - 2
    assert names[0] == f"model-00001-of-{left:05}.safetensors"
    assert len(names) == left + 1
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert set(index["weight_map"]) == set(infos) - gone
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in tensors(tmp_path / "out").values())


def test_one_shard_left_is_one_file(tmp_path):
    save_llama(tmp_path / "source", shards=True)
    (tmp_path / "out").mkdir()
    infos = read_tensors(tmp_path / "source")
    first = min(info.file for info in infos.values())
    names = rewritten(tmp_path / "source", tmp_path / "out", drop={n for n in infos if infos[n].file != first})
    assert names == (SINGLE,)
    assert os.path.samefile(tmp_path / "out" / SINGLE, tmp_path / "source" / first)


def test_cast_in_chunks(source, out, monkeypatch):
    monkeypatch.setattr("lbdsl.run.shards.CAST_ELEMENTS", 7)

    def cast(data: bytearray, old: str, new: str) -> bytes:
        return np.frombuffer(data, old).astype(new).tobytes()

    rewritten(source, out, dtype="float16", cast=cast)
    assert equal(tensors(out), {name: value.astype("float16") for name, value in tensors(source).items()})


def test_tensors_stay_aligned_to_their_elements(tmp_path):
    """Without the odd one of two bytes an element, the others would begin between two of their elements."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    save_file(
        {
            "a": np.arange(3, dtype="float16"),
            "b": np.arange(4, dtype="float32"),
            "c": np.arange(5, dtype="uint8"),
            "d": np.arange(2, dtype="float64"),
        },
        source / SINGLE,
    )
    rewritten(source, out, rename={"c": "z"})
    for info in read_tensors(out).values():
        assert info.start % ((info.stop - info.start) // info.elements) == 0
    assert equal(tensors(out), {{"c": "z"}.get(k, k): v for k, v in tensors(source).items()})


def test_links_follow_a_hub_snapshots_symlinks(tmp_path):
    save_llama(tmp_path / "blobs")
    snapshot, out = tmp_path / "snapshot", tmp_path / "out"
    snapshot.mkdir()
    out.mkdir()
    (snapshot / SINGLE).symlink_to(tmp_path / "blobs" / SINGLE)
    rewritten(snapshot, out)
    assert not (out / SINGLE).is_symlink()
    assert os.path.samefile(out / SINGLE, tmp_path / "blobs" / SINGLE)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_copied_where_there_can_be_no_link(source, out, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    rewritten(source, out)
    assert equal(tensors(out), tensors(source))
    for file in out.glob("*.safetensors"):
        assert not os.path.samefile(file, source / file.name)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("refusing", [("copy_file_range",), ("copy_file_range", "sendfile")])
def test_every_way_of_copying_gives_the_same(source, out, monkeypatch, refusing, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    for name in refusing:
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(copying, "BUFFER", 1000)
    rewritten(source, out, drop={"model.norm.weight", "model.layers.0.mlp.up_proj.weight"})
    expected = tensors(source)
    del expected["model.norm.weight"], expected["model.layers.0.mlp.up_proj.weight"]
    assert equal(tensors(out), expected)


def test_a_full_disk_is_the_callers_and_leaves_nothing(source, out, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="space"):
        rewritten(source, out, rename={"model.norm.weight": "x"})
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_source_that_shrinks_is_seen(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    all_ways = copying._WAYS
    for first in range(len(all_ways)):
        monkeypatch.setattr(copying, "_WAYS", all_ways[first:])
        with (tmp_path / "a").open("rb") as reader, (tmp_path / "b").open("wb") as writer:
            with pytest.raises(LbdslError) as caught:
                copy_range(reader.fileno(), writer.fileno(), 500, 501)
            assert caught.value.diagnostics[0].code == "LB419"


def test_a_source_that_is_changed_meanwhile_is_seen(tmp_path, monkeypatch):
    save_llama(tmp_path / "source")
    (tmp_path / "out").mkdir()
    plan = plan_rewrite(tmp_path / "source")
    save_llama(tmp_path / "source", num_hidden_layers=2)
    with pytest.raises(LbdslError) as caught:
        carry_out(plan, tmp_path / "out")
    assert caught.value.diagnostics[0].code == "LB419"


def test_link_or_copy_says_which(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert link_or_copy(tmp_path / "a", tmp_path / "b")


def test_damage_is_found_before_anything_is_written(source, out):
    shard = next(iter(sorted(source.glob("*.safetensors"))))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(LbdslError) as caught:
        rewritten(source, out, drop={"model.norm.weight"})
    assert caught.value.diagnostics[0].code == "LB405"
    assert not list(out.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_choice_of_tensors(tmp_path_factory, data):
    """Any dtypes and shapes, empty tensors and scalars among them, over any shards: what is left is bit-identical."""
    folder = tmp_path_factory.mktemp("any")
    source, out = folder / "source", folder / "out"
    source.mkdir()
    out.mkdir()
    shards = data.draw(
        st.lists(
            st.lists(
                st.tuples(
                    st.sampled_from(["uint8", "float16", "float32", "float64", "int64"]),
                    st.lists(st.integers(0, 4), max_size=3),
                ),
                min_size=1,
                max_size=5,
            ),
            min_size=1,
            max_size=4,
        )
    )
    where = {}
    for number, shard in enumerate(shards):
        file = SINGLE if len(shards) == 1 else f"model-{number}.safetensors"
        made = {
            f"t{number}.{i}": np.random.default_rng(i).integers(0, 200, shape).astype(dtype)
            for i, (dtype, shape) in enumerate(shard)
        }
        save_file(made, source / file)
        where |= dict.fromkeys(made, file)
    if len(shards) > 1:
        (source / INDEX).write_text(json.dumps({"weight_map": where}))
    kept = data.draw(st.sets(st.sampled_from(sorted(where)), min_size=1))
    rename = {name: name + "x" for name in data.draw(st.sets(st.sampled_from(sorted(where))))}
    rewritten(source, out, drop=set(where) - kept, rename=rename)
    expected = {rename.get(name, name): value for name, value in tensors(source).items() if name in kept}
    assert equal(tensors(out), expected)


def test_metadata_says_pytorch(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    write_safetensors(
        tmp_path / "source" / SINGLE,
        {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        },
        b"ab",
    )
    rewritten(tmp_path / "source", tmp_path / "out", drop={"a"})
    raw = (tmp_path / "out" / SINGLE).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}
    assert raw[-1:] == b"b"
