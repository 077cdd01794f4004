"""Conversion of an 8 GB checkpoint, one tensor of it over 1 GB: its memory, and its time against `cp`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbdsl.artifact.contents import check_files, file_hashes
from lbdsl.artifact.record import read_record
from lbdsl.model.checkpoint import read_tensors, same_bytes
from tests.slow import large_checkpoint
from tests.tiny_model import byte_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MB = 1e6
NEEDED = 25e9


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("large")
    try:
        if shutil.disk_usage(place).free < NEEDED:
            pytest.fail(f"this test needs {NEEDED / 1e9:.0f} GB below {place}")
        large_checkpoint.write_checkpoint(place / "base")
        byte_tokenizer().save_pretrained(place / "base")
        yield place
    finally:
        shutil.rmtree(place)


def run(mode: str, place: Path, out: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.slow.large_checkpoint", mode, str(place / "base"), str(place / out)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_bytes_are_really_there(place):
    base = place / "base"
    files = list(base.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    assert size > 8e9
    assert sum(file.stat().st_blocks for file in files) * 512 >= size, "no file is sparse"
    assert max(info.stop - info.start for info in read_tensors(base).values()) > 1e9


def test_peak_memory_of_a_conversion(place):
    bare = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"],
        capture_output=True,
        text=True,
    )
    baseline = run("baseline", place, "none")["peak"]
    started = time.perf_counter()
    found = run("convert", place, "out")
    seconds = time.perf_counter() - started
    over = (found["peak"] - baseline) / MB
    started = time.perf_counter()
    hashes = file_hashes(place / "out")
    hashing = time.perf_counter() - started
    assert hashes == read_record(place / "out").unwrap().files
    print(
        f"\nbare python {int(bare.stdout) * 1024 / MB:.0f} MB; with the modules imported {baseline / MB:.0f} MB; "
        f"converting {found['peak'] / MB:.0f} MB (+{over:.1f} MB); {seconds:.1f} s with start and hashing, hashing "
        f"alone {hashing:.1f} s"
    )
    assert over < 100

    base, out = place / "base", place / "out"
    check_files(out, read_record(out).unwrap())
    before, after = read_tensors(base), read_tensors(out)
    gone = {
        name
        for name in before
        if any(f"layers.{i}.{part}" in name for i in (3, 9, 14) for part in ("self_attn", "input_layernorm"))
    }
    assert set(after) == set(before) - gone
    (place / "both").mkdir()
    for folder, prefix in ((base, "a-"), (out, "b-")):
        for file in folder.glob("*.safetensors"):
            (place / "both" / (prefix + file.name)).symlink_to(file)
    from dataclasses import replace

    for name, info in after.items():
        assert same_bytes(
            place / "both", replace(before[name], file="a-" + before[name].file), replace(info, file="b-" + info.file)
        ), name
    shutil.rmtree(out)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_peak_memory_of_quantizing(place, method):
    """One layer at a time: the weights before and after, and what error feedback holds of the largest Gram matrix."""
    layer = sum(info.stop - info.start for name, info in read_tensors(place / "base").items() if ".layers.0." in name)
    gram = 4 * large_checkpoint.CONFIG["intermediate_size"] ** 2
    baseline = run("baseline", place, "none")["peak"]
    started = time.perf_counter()
    over = run(method, place, method)["peak"] - baseline
    print(
        f"\n{method}: +{over / MB:.0f} MB over what is imported; the layer {layer / MB:.0f} MB, the largest Gram matrix "
        f"{gram / MB:.0f} MB; {time.perf_counter() - started:.0f} s"
    )
    check_files(place / method, read_record(place / method).unwrap())
    shutil.rmtree(place / method)
    assert over < layer + 1000 * MB + (3 * gram if method == "gptq" else 0)


def test_time_against_cp(place):
    """A B B A: rewriting (fsync included), and cp of the bytes that it writes, with and without a sync at the end."""
    times: dict[str, list[float]] = {"rewrite": [], "cp": [], "cp + sync": []}
    written = 0

    def rewrite(name: str) -> Path:
        nonlocal written
        os.sync()
        found = run("weights", place, name)
        times["rewrite"].append(found["seconds"])
        written = found["written"]
        return place / name

    def copy(folder: Path) -> None:
        made = [file for file in folder.glob("*.safetensors") if file.stat().st_nlink == 1]
        (place / "copies").mkdir()
        os.sync()
        started = time.perf_counter()
        subprocess.run(["cp", "--reflink=never", *map(str, made), str(place / "copies")], check=True)
        times["cp"].append(time.perf_counter() - started)
        for file in (place / "copies").iterdir():
            with file.open("rb+") as stream:
                os.fsync(stream)
        times["cp + sync"].append(time.perf_counter() - started)
        assert sum(file.stat().st_size for file in (place / "copies").iterdir()) == pytest.approx(written, rel=1e-3)
        shutil.rmtree(place / "copies")

    first = rewrite("one")
    copy(first)
    copy(first)
    shutil.rmtree(first)
    shutil.rmtree(rewrite("two"))
    print(
        f"\n{written / 1e9:.2f} GB written; seconds: "
        + "; ".join(f"{name} {', '.join(f'{t:.1f}' for t in values)}" for name, values in times.items())
    )
    mean = {name: sum(values) / len(values) for name, values in times.items()}
    assert mean["rewrite"] < 2 * mean["cp + sync"]
