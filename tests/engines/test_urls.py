"""`bench --url` against two real servers of vLLM on a CPU: the base and an export."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbdsl.api.benching import bench_artifact
from lbdsl.artifact.record import read_record
from lbdsl.bench.engine_url import AtUrls
from lbdsl.bench.environments import clean_environment, engines_folder
from lbdsl.bench.workers.vllm_served import free_port
from lbdsl.core.diagnostic import LbdslError
from lbdsl.session.exporting import export_artifact
from tests.engines.test_fp8 import made
from tests.engines.vllm_side import vllm_python

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800), pytest.mark.usefixtures("all_cores")]


@contextmanager
def server(model: Path, name: str, log: Path) -> Iterator[str]:
    port = free_port()
    words = ["--model", str(model), "--port", str(port), "--host", "127.0.0.1", "--served-model-name", name]
    words += ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager", "--trust-remote-code"]
    home = str(engines_folder() / "hf-home")
    values = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HOME": home}
    with log.open("w") as said:
        command = [str(vllm_python()), "-m", "vllm.entrypoints.openai.api_server", *words]
        process = subprocess.Popen(command, env=clean_environment(**values), stdout=said, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_two_servers(tmp_path: Path) -> None:
    _, folder = made("layers 2-4 drop\n", tmp_path)
    export = export_artifact(folder, "decilm", output=tmp_path / "decilm").folder
    servers = server(tmp_path / "base", "base", tmp_path / "base.log"), server(export, "changed", tmp_path / "changed.log")
    with servers[0] as base, servers[1] as changed:
        found = bench_artifact(folder, AtUrls((base, changed), concurrency=(4,), lengths=((64, 32),), pairs=3))
        with pytest.raises(LbdslError, match="takes 256 tokens, and 282 are asked"):
            bench_artifact(folder, AtUrls((base, changed), lengths=((250, 32),)))
    cells = {cell.metric: cell for cell in found.measured.cells}
    for metric, cell in cells.items():
        print(f"{metric}: base {cell.base:.4g} {cell.unit}, x{cell.ratio:.2f} ({cell.low:.2f} to {cell.high:.2f})")
    assert set(cells) == {"throughput", "ttft", "itl"}
    # 4 at once of 32 tokens each: the first token, and 31 times what lies between two.
    for which in ("base", "artifact"):
        throughput, ttft, itl = (getattr(cells[name], which) for name in ("throughput", "ttft", "itl"))
        assert throughput == pytest.approx(4 * 32 / (ttft + 31 * itl), rel=0.4)
    assert read_record(folder).unwrap().bench["vllm-served-url"]["engine_version"] == "0.32.0"
