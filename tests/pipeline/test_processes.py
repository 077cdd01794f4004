"""Several processes: one healing, one measuring."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lbdsl.core.diagnostic import LbdslError
from lbdsl.measure.store import open_store
from lbdsl.session.model import OpenModel
from tests.clean_process import LBDSL, CleanProcess
from tests.data.test_chats import TEMPLATE
from tests.pipeline.test_stages import with_chats
from tests.tiny_model import RECIPE

APPLY = ("-m", "lbdsl", "apply", "tiny.lbr", "model", "--yes", "--quiet", "-o")
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

DYING = """
import importlib, os, signal, sys
from functools import partial
place, name, count, rank = os.environ["DIE"].split()
owner = importlib.import_module(place)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
real, calls = getattr(owner, name), [0]
def dying(*args, **kwargs):
    calls[0] += 1
    if calls[0] == int(count) and os.environ["RANK"] == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, name, dying)
import lbdsl.heal.heal as heal
heal.HealRun = partial(heal.HealRun, save_seconds=0.0)
from lbdsl.cli.app import main
main(sys.argv[1:])
"""
"""Process `rank` is killed when it calls a function for the `count`th time."""

MOMENTS = {
    "measuring": ("lbdsl.measure.predictions compare 2 1", "DDP", 1),
    "loading to heal": ("lbdsl.heal.changed segments 1 1", "FSDP", 2),
    "the fifth step": ("lbdsl.heal.objectives Distill.forward 5 1", "FSDP", 1),
    "a checkpoint of which nothing is written": (
        "lbdsl.heal.loop save_state 3 1",
        "DDP",
        2,
    ),
    "a checkpoint of which the weights lack": ("lbdsl.heal.loop save_file 3 0", "FSDP", 2),
    "after the last step": ("lbdsl.heal.validation Validation.restore 1 1", "FSDP", 1),
    "judging": ("lbdsl.run.apply _judge 1 0", "DDP", 2),
}
"""Where a process dies, how the model is held, and how many processes resume."""

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What `accelerate launch` sets by a configuration such as SHARED."""

SHARED = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config: {fsdp_version: 2}
mixed_precision: "no"
num_machines: 1
num_processes: 2
use_cpu: true
"""

_TEXT = 'data = "builtin:pydoc"; seq = 64; batch = 2; lr = 2e-3'
STAGES = f"heal {{ {_TEXT}; stage match {{ tokens = 1024 }}; stage distill {{ tokens = 1024; method = full }} }}"
CHATS = f"heal {{ {_TEXT.replace('builtin:pydoc', 'chats.jsonl')}; loss_on = assistant; tokens = 1024 }}"
CACHED = f"heal {{ {_TEXT}; teacher = cached; tokens = 1024; method = full }}"

RECOMPUTING = """
import sys
import lbdsl.run.healing as healing
healing._needs_recomputing = lambda *_: True
from lbdsl.cli.app import main
main(sys.argv[1:])
"""
"""Layers are computed twice (gradient checkpointing), as if memory were short."""

APART = """
import os, sys
if os.environ["RANK"] == "1":
    os.environ["LBDSL_CACHE_DIR"] = "apart"
from lbdsl.cli.app import main
main(sys.argv[1:])
"""
"""The second process does not see the cache folder of the first."""

CLAIMING = """
import sys, time
from pathlib import Path
from lbdsl.measure.store import open_store
with open_store(Path(sys.argv[1])) as store, store.claimed("work") as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def fresh(workplace: Path, new_cache: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace, with nothing measured."""
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(new_cache(workplace / "cache")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return workplace


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folder: Path,
    new_cache: Callable[[Path], Path],
    clean_process: CleanProcess,
) -> Path:
    """What one process makes of the tiny recipe, with a cache of its own."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "tiny.lbr").write_text(RECIPE)
    (folder / "model").symlink_to(tiny_folder)
    cache = str(new_cache(folder / "cache"))
    done = clean_process.lbdsl(*APPLY[2:], "one", cwd=folder, LBDSL_CACHE_DIR=cache)
    assert done.returncode == 0, done.stderr
    return folder / "one"


def ran(*words: str, folder: Path | None = None, **others: str) -> subprocess.CompletedProcess[str]:
    words, environment = (sys.executable, *words), {**os.environ, **others}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=folder)


def weights(folder: str | Path) -> dict:
    (path,) = Path(folder).glob("*.safetensors")
    return load_file(path)


def scores(folder: str | Path) -> dict:
    plan = json.loads((Path(folder) / "lbdsl.json").read_text())["plan"]
    return {"joint": plan["loss"], "layers": [layer["scores"] for layer in plan["layers"]]}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_alike(one: str | Path, other: str) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, weight in left.items():
        assert (weight.float() - right[name].float()).abs().max() < 1e-5, name


def test_two_processes_measure_and_heal_as_one(fresh: Path, alone: Path, clean_process: CleanProcess) -> None:
    """With what `torchrun` sets; it starts them itself in the slow tests."""
    place = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [{**place, "RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
    together = clean_process.together(LBDSL, *APPLY[2:], "two", cwd=fresh, processes=ranks)
    assert [done.returncode for done in together] == [0, 0], together
    # Said once.
    assert "".join(done.stdout for done in together).count("healed   ") == 1
    assert_alike(alone, "two")
    assert scores(alone) == scores("two")
    curves = [json.loads((Path(name) / "lbdsl.json").read_text())["heal"]["curve"] for name in (alone, "two")]
    assert curves[0] == [[tokens, pytest.approx(loss, abs=1e-4)] for tokens, loss in curves[1]]


@pytest.mark.slow
def test_processes_with_a_share_of_the_model_heal_as_one(fresh: Path, alone: Path) -> None:
    Path("shared.yaml").write_text(SHARED)
    together = ran("-m", "accelerate.commands.launch", "--config_file", "shared.yaml", *APPLY, "two")
    assert together.returncode == 0, together.stderr
    assert_alike(alone, "two")


@pytest.mark.slow
@pytest.mark.parametrize("heal", [STAGES, CACHED, CHATS], ids=["match, then all weights", "a cached teacher", "chats"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "whole"])
def test_other_ways_to_heal_together(fresh: Path, heal: str, shared: bool) -> None:
    start = RECIPE.index("heal {")
    Path("tiny.lbr").write_text(RECIPE[:start] + heal + RECIPE[RECIPE.index("}\n", start) + 1 :])
    with_chats(fresh, TEMPLATE if heal == CHATS else None)
    one = ran(*APPLY, "one")
    assert one.returncode == 0, one.stderr
    two = ran(*TOGETHER, "2", *APPLY, "two", **(FSDP if shared else {}))
    assert two.returncode == 0, two.stderr
    assert_alike("one", "two")


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "whole"])
def test_layers_are_computed_twice_in_each_process(fresh: Path, alone: Path, shared: bool) -> None:
    Path("driver.py").write_text(RECOMPUTING)
    done = ran(*TOGETHER, "2", "driver.py", *APPLY[2:], "two", **(FSDP if shared else {}))
    assert done.returncode == 0, done.stderr
    assert_alike(alone, "two")


@pytest.mark.slow
@pytest.mark.parametrize(("place", "held", "resuming"), MOMENTS.values(), ids=MOMENTS.keys())
def test_one_process_dies_and_others_resume(fresh: Path, alone: Path, place: str, held: str, resuming: int) -> None:
    Path("driver.py").write_text(DYING)
    shared = FSDP if held == "FSDP" else {}
    broken = ran(*TOGETHER, "2", "driver.py", *APPLY[2:], "two", DIE=place, **shared)
    assert broken.returncode != 0
    assert "SIGKILL" in broken.stderr
    assert "internal error" not in broken.stderr
    assert not Path("two").exists()
    start = (*TOGETHER, "2") if resuming == 2 else ()
    resumed = ran(*start, *APPLY, "two", "--resume", **(shared if resuming == 2 else {}))
    assert resumed.returncode == 0, resumed.stderr
    assert_alike(alone, "two")


@pytest.mark.slow
def test_one_process_then_two_with_shares_then_one(fresh: Path, alone: Path) -> None:
    Path("driver.py").write_text(DYING)
    place = "lbdsl.heal.loop save_state 3 0"
    driven = ("driver.py", *APPLY[2:], "two")
    assert ran(*driven, DIE=place, RANK="0").returncode != 0
    assert ran(*TOGETHER, "2", *driven, "--resume", DIE=place, **FSDP).returncode != 0
    steps = sorted(Path("two.lbdsl-work/heal/1-distill").glob("checkpoint-*/lbdsl-complete"))
    assert len(steps) == 2
    resumed = ran(*APPLY, "two", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_alike(alone, "two")


@pytest.mark.slow
def test_an_error_is_said_once(fresh: Path) -> None:
    done = ran(*TOGETHER, "3", *APPLY, "three")
    assert done.returncode != 0
    assert done.stderr.count("LB457") == 1
    assert "internal error" not in done.stderr
    assert not Path("three").exists()


@pytest.mark.slow
def test_processes_that_do_not_know_of_each_other_share_the_measuring(fresh: Path) -> None:
    plan = [sys.executable, "-m", "lbdsl", "plan", "tiny.lbr", "model", "--json"]
    both = [subprocess.Popen(plan, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    first, second = (json.loads(output) for output in outputs)
    assert first["loss"] == second["loss"]
    alone = ran("-m", "lbdsl", "plan", "tiny.lbr", "model", "--json", LBDSL_CACHE_DIR=str(fresh / "other"))
    assert json.loads(alone.stdout)["loss"] == first["loss"]


def test_work_that_is_claimed_is_left_until_its_process_ends(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        claiming = [sys.executable, "-c", CLAIMING, str(tmp_path)]
        other = subprocess.Popen(claiming, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with store.claimed("work") as mine, store.claimed("more") as more:
            assert (mine, more) == (False, True)
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdout.close()
        end, found = time.monotonic() + 10, False
        while not found and time.monotonic() < end:
            with store.claimed("work") as found:
                pass
        assert found


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "3"}, "write `batch = 3` in the heal block"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "asks for FSDP1"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, "use `distributed_type: FSDP`"),
        ({"WORLD_SIZE": "2", **FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "set `fsdp_offload_params: false`"),
    ],
)
def test_processes_that_cannot_heal_together(
    workplace: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    monkeypatch.setattr("lbdsl.api.following.leading", lambda options: nullcontext())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes")
    assert (done.code, "LB457" in done.err, said in done.err) == (1, True, True), done.err
    assert not Path("out").exists()


def configurations() -> list[str]:
    """Those of docs/scaling.md."""
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("text", configurations(), ids=["whole", "shared"])
@pytest.mark.parametrize("machines", [1, 2])
def test_the_configurations_of_the_page_with_two_processes(fresh: Path, alone: Path, text: str, machines: int) -> None:
    Path("here.yaml").write_text(text.replace("num_processes: 8", "num_processes: 2") + "use_cpu: true\n")
    port = str(free_port())
    first = ("--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port) if machines == 2 else ()
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", "here.yaml", *first)
    ranks = [("--machine_rank", str(rank)) for rank in range(2)] if machines == 2 else [()]
    runs = [
        subprocess.Popen((*launch, *rank, *APPLY, "two"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in ranks
    ]
    said = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0] * machines, said
    assert_alike(alone, "two")
    assert scores(alone) == scores("two")


@pytest.mark.slow
def test_without_the_first_ones_cache_folder_the_others_wait(fresh: Path, alone: Path) -> None:
    Path("driver.py").write_text(APART)
    together = ran(*TOGETHER, "2", "driver.py", *APPLY[2:], "two")
    assert together.returncode == 0, together.stderr
    assert_alike(alone, "two")
    assert not list(Path("apart").glob("measurements.*"))


@pytest.mark.parametrize(("held", "models"), [({}, 2), (FSDP, 4)], ids=["whole", "shared"])
def test_models_that_do_not_fit_are_refused(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, held: dict[str, str], models: int
) -> None:
    """Of a model that is shared each process on a machine reads both into its memory first."""
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **held}.items():
        monkeypatch.setenv(name, value)
    bench = OpenModel(workplace / "model")
    needed = models * bench.facts.params * bench.computed.dtype_bytes
    monkeypatch.setattr("lbdsl.measure.memory.free_bytes", lambda device: needed)
    bench.check_room_to_heal()
    monkeypatch.setattr("lbdsl.measure.memory.free_bytes", lambda device: needed - 1)
    with pytest.raises(LbdslError, match="healing loads the model and a copy") as refused:
        bench.check_room_to_heal()
    assert refused.value.diagnostics[0].code == "LB482"
