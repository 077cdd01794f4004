"""Tiny models gain nothing from threads and lose much: one each, for this process and those it starts.

`--quick` runs what needs no torch: it cannot be loaded then. A module of tests that loads it is skipped, tests marked
`torch`, or `large` for those that take a second or more, are left out, and any other test that loads it, also in a
process of its own, fails.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests.clean_process import CleanProcess

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU, kernels run in Triton's interpreter; it has to be named before anything imports Triton.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Machines differ, and a loaded one is slow: time says nothing about a property.
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
for profile, examples in {"quick": 10, "default": 50, "thorough": 500}.items():
    settings.register_profile(profile, max_examples=examples, **SLOW)
settings.load_profile("default")


LONG = 5400
"""Seconds."""
SHARED, ROOM = Path("/dev/shm"), 6 * 2**30
"""What the default tests write, 800 MB, is not waited for on a disk where so much memory is free."""


class NoTorch:
    """An importer that says no."""

    collected = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch":
            if self.collected:
                pytest.fail("a quick test loads torch: mark it with `torch`")
            pytest.skip("needs torch", allow_module_level=True)


NO_TORCH = NoTorch()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests that need no torch, with fewer random examples")


def pytest_configure(config: pytest.Config) -> None:
    if "not slow" in config.option.markexpr and SHARED.is_dir() and psutil.virtual_memory().available > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED))
    if config.option.quick:
        if not config.option.hypothesis_profile:
            settings.load_profile("quick")
        sys.meta_path.insert(0, NO_TORCH)
        ours = str(Path(__file__).with_name("without_torch"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if config.option.timeout is None and (item.get_closest_marker("slow") or item.get_closest_marker("engine")):
            # Real models and engines take longer than a hang of the others may.
            item.add_marker(pytest.mark.timeout(LONG))
    if config.option.quick:
        NO_TORCH.collected = True
        left = [item for item in items if item.get_closest_marker("torch") or item.get_closest_marker("large")]
        config.hook.pytest_deselected(items=left)
        kept = set(items) - set(left)
        items[:] = [item for item in items if item in kept]


modules_frozen = 0


def pytest_runtest_setup() -> None:
    """What is imported stays: half a second for each of the Trainer's collections of garbage."""
    global modules_frozen
    if len(sys.modules) > modules_frozen + 50:
        gc.collect()
        gc.freeze()
        modules_frozen = len(sys.modules)


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def clean_process() -> Iterator[CleanProcess]:
    process = CleanProcess()
    yield process
    process.close()


@pytest.fixture(scope="session")
def new_cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes a cache folder that holds nothing but what this machine can do, which takes seconds to measure."""
    from lbdsl.cost.facts import ModelFacts
    from lbdsl.measure import calibrate, machine

    known = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "_BUDGET", 0.0)
        patch.setitem(calibrate._COPY_BYTES, "cpu", 2**20)
        patch.setitem(calibrate._GEMM_SIZE, "cpu", 512)
        for dtype in ("float32", "bfloat16", "float16"):
            machine.machine_for("cpu", ModelFacts("llama", "LlamaForCausalLM", 0, 0, 0, False, dtype, ()), known)
    return lambda folder: Path(shutil.copytree(known, folder))
