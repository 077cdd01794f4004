"""`bench` and `calibrate` in a vLLM for GPUs, which a program stands for: what it is told, what is kept, how it fails."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lbdsl.api.benching import bench_artifact
from lbdsl.api.calibrating import Calibrated, calibrate_model
from lbdsl.api.planning import plan_recipe
from lbdsl.artifact.record import read_record
from lbdsl.bench.engine import EnginePython
from lbdsl.bench.engine_vllm import BIND, Requests
from lbdsl.core.diagnostic import LbdslError
from lbdsl.measure.profiles import write_profile
from lbdsl.plan.file import load_plan
from lbdsl.session.options import RunOptions
from tests.fake_vllm import H100
from tests.pipeline.test_quantize import applied

pytestmark = pytest.mark.usefixtures("engine_cache")


@pytest.fixture
def artifact(tiny_folder: Path, tmp_path: Path) -> Path:
    text = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nlayers 1-3 drop\n'
    return applied(text, tiny_folder, tmp_path)[1].folder


def asked(python: Path, *arguments: str, **options: Any) -> Requests:
    engine = EnginePython(python, arguments=arguments)
    return Requests(**{"concurrency": (4,), "lengths": ((32, 8),), "pairs": 2, "engine": engine, **options})


def options(tmp_path: Path, **more: Any) -> RunOptions:
    return RunOptions(cache_dir=tmp_path / "cache", **more)


def told(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_it_runs_on_the_gpus_that_its_python_sees(artifact: Path, python: Path, tmp_path: Path) -> None:
    words = ("--tensor-parallel-size", "2", "--max-num-seqs=256")
    found = bench_artifact(artifact, asked(python, *words), options=options(tmp_path))
    for each in told(tmp_path):
        assert each["sees"] is None
        assert each["options"]["gpu_memory_utilization"] == 0.45
        # Also where it says what is vLLM's own default.
        assert (each["options"]["tensor_parallel_size"], each["options"]["max_num_seqs"]) == (2, 256)
    (cell,) = found.measured.cells
    assert cell.ratio > 1
    kept = read_record(artifact).unwrap().bench["vllm"]["machine"]
    assert (kept["name"], kept["gpus"], kept["capability"]) == (H100[0], 2, "9.0")
    assert kept["arguments"] == list(words)
    assert "NVIDIA H100 80GB HBM3" in (artifact / "README.md").read_text()


def test_on_a_cpu_it_sees_no_gpu(artifact: Path, python: Path, tmp_path: Path) -> None:
    found = bench_artifact(artifact, asked(python), options=options(tmp_path, device="cpu"))
    assert {each["sees"] for each in told(tmp_path)} == {""}
    assert all("gpu_memory_utilization" not in each["options"] for each in told(tmp_path))
    assert found.machine["device"] == "cpu"


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize(
    ("cores", "environment", "words", "threads"),
    [
        (2, {}, (), 2),
        (4, {}, (), 4),
        # By itself the stand-in takes one.
        (8, {}, (), 1),
        (2, {BIND: "1"}, (), 1),
        (4, {BIND: "0,1,2"}, (), 3),
        (2, {"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"}, (), 1),
        (2, {}, ("--tensor-parallel-size", "2"), 1),
    ],
)
def test_on_a_few_cpus_its_worker_computes_on_all(
    cores: int,
    environment: dict[str, str],
    words: tuple[str, ...],
    threads: int,
    served: bool,
    artifact: Path,
    python: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless the environment says otherwise; and the row has the threads of the worker, not of the process around it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {*range(cores)})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    found = bench_artifact(
        artifact,
        asked(python, *words, served=served),
        options=options(tmp_path, device="cpu"),
        progress=lambda _stage, _done, _total, note: said.append(note),
    )
    assert found.measured.threads == found.machine["threads"] == threads
    (kept,) = (read_record(artifact).unwrap().bench or {}).values()
    assert kept["machine"]["threads"] == threads
    bound = cores <= 4 and not environment and not words
    assert any(f"{BIND}={','.join(map(str, range(cores)))}" in note for note in said) == bound


def test_a_profile_of_other_threads_predicts_nothing(
    artifact: Path, tiny_folder: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BIND, "0")
    chosen = options(tmp_path, device="cpu")
    one = Requests((4,), ((32, 8),), 2, EnginePython(python))
    profile = calibrate_model(tiny_folder, one, options=chosen).profile
    assert profile.machine["threads"] == 1
    for bound, predicts in (("0", True), ("0,1", False)):
        monkeypatch.setenv(BIND, bound)
        (cell,) = bench_artifact(artifact, asked(python), options=chosen).measured.cells
        assert (cell.predicted is not None) == predicts


def test_its_server_is_told_the_same(artifact: Path, python: Path, tmp_path: Path) -> None:
    found = bench_artifact(artifact, asked(python, "--tensor-parallel-size", "2", served=True), options=options(tmp_path))
    cells = {cell.metric: cell for cell in found.measured.cells}
    assert set(cells) == {"ttft", "itl"}
    assert cells["itl"].ratio < 1
    assert cells["itl"].ratio == pytest.approx(cells["ttft"].ratio)
    for each in told(tmp_path):
        words = " ".join(each["server"])
        assert each["sees"] is None
        assert words.endswith("--gpu-memory-utilization 0.45 --tensor-parallel-size 2")
    assert found.machine["gpus"] == 2


def test_a_profile_of_the_gpus_is_kept_and_plans_are_predicted_by_it(
    tiny_folder: Path, profile: Path, calibrated: Calibrated, tmp_path: Path
) -> None:
    assert calibrated.profile.machine["name"] == H100[0]
    assert "-own-" in profile.name
    (tmp_path / "r.lbr").write_text(
        'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nlayers 1-3 drop(block)\n'
        "assert throughput(32, 8, 4) >= 110%\n"
    )
    plan = plan_recipe(tmp_path / "r.lbr", str(tiny_folder), options=options(tmp_path)).plan
    assert plan.applyable
    assert [gate.status for gate in plan.asserts] == ["pass"]
    # What users of GPUs quantize to was timed there; integers were not.
    for rule, status in {"quantize(form=fp8) + cache(fp8)": "pass", "quantize(bits=8, activations=8)": "fail"}.items():
        (tmp_path / "r.lbr").write_text(
            'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\n'
            f"layers all {rule}\nassert throughput(32, 8, 4) >= 101%\n"
        )
        plan = plan_recipe(tmp_path / "r.lbr", str(tiny_folder), options=options(tmp_path)).plan
        assert [gate.status for gate in plan.asserts] == [status]


def test_the_device_of_a_target_chooses_the_profile(
    tiny_folder: Path, profile: Path, calibrated: Calibrated, tmp_path: Path, lbdsl
) -> None:
    """Of those kept, else the last; a plan that was made by one is applied beside another."""
    of_h100 = calibrated.profile
    other = replace(of_h100, machine={**of_h100.machine, "name": "NVIDIA GeForce RTX 4090"})
    write_profile(profile.with_name(profile.name.replace(profile.stem[-16:], 16 * "0")), other)
    (tmp_path / "r.lbr").write_text(
        'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nlayers 1-3 drop(block)\n'
        "assert throughput(32, 8, 4) >= 110%\n"
    )
    words = ("plan", str(tmp_path / "r.lbr"), str(tiny_folder), "--cache-dir", str(tmp_path / "cache"))
    for target, name in {"vllm": "RTX 4090", "vllm@RTX4090": "RTX 4090", "vllm@2xH100": "H100"}.items():
        planned = lbdsl(*words, "--target", target, "-o", str(tmp_path / f"{name}.lbplan"))
        assert planned.code == 0, planned.err
        assert name in load_plan(tmp_path / f"{name}.lbplan").unwrap().profiles["vllm"].machine["name"]
    none = lbdsl(*words, "--target", "vllm@RTX3090")
    assert "LB353" in none.err, none.err
    applied = ("apply", str(tmp_path / "H100.lbplan"), "-o", str(tmp_path / "out"), "--yes", *words[-2:])
    made = lbdsl(*applied)
    assert made.code == 0, made.err


def test_another_version_is_another_profile(
    artifact: Path, profile: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench_artifact(artifact, asked(python), options=options(tmp_path))
    monkeypatch.setenv("FAKE_VLLM", "0.33.0")
    other = bench_artifact(artifact, asked(python), options=options(tmp_path))
    assert first.measured.cells[0].predicted is not None
    assert other.measured.cells[0].predicted is None


@pytest.mark.parametrize(
    ("fails", "code", "said"), [("memory", "LB488", "CUDA out of memory"), ("killed", "LB486", "the system ended vllm")]
)
def test_how_it_fails(
    fails: str, code: str, said: str, artifact: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAILS", fails)
    with pytest.raises(LbdslError, match=said) as problem:
        bench_artifact(artifact, asked(python), options=options(tmp_path))
    assert [d.code for d in problem.value.diagnostics] == [code]


GPUS = {
    "GPUs of several kinds": [H100, ["NVIDIA A100", [8, 0], 40 * 10**9]],
    "the weights of both models": [[*H100[:2], 10**4]],
}


@pytest.mark.parametrize("said", GPUS)
def test_gpus_that_do_not_do(
    said: str, artifact: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPUS", json.dumps(GPUS[said]))
    with pytest.raises(LbdslError, match=said):
        bench_artifact(artifact, asked(python), options=options(tmp_path))


def test_layers_with_a_cache_of_their_own_are_told(tiny_folder: Path, python: Path, tmp_path: Path) -> None:
    text = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nlayers 2 keep\nlayers all cache(fp8)\n'
    folder = applied(text, tiny_folder, tmp_path)[1].folder
    words = ("--hf-token", "hf_secret")
    bench_artifact(folder, asked(python, *words), options=options(tmp_path))
    base, changed = told(tmp_path)
    assert "kv_cache_dtype" not in base["options"]
    assert (changed["options"]["kv_cache_dtype"], changed["options"]["kv_cache_dtype_skip_layers"]) == ("fp8", ["2"])
    assert base["options"]["hf_token"] == "hf_secret"
    assert "hf_secret" not in (folder / "lbdsl.json").read_text()
    with pytest.raises(LbdslError, match="on a CPU vLLM has one kind of cache"):
        bench_artifact(folder, asked(python), options=options(tmp_path, device="cpu"))
