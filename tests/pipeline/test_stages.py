"""Healing in stages, with a cached teacher, and with layers computed twice, by the command line."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from lbdsl.artifact.record import read_record
from lbdsl.data import TextPart, read_parts
from lbdsl.heal import heal, loop, teacher
from lbdsl.recipe.load import recipe_from_text
from lbdsl.run import apply as applying
from lbdsl.run import healing as running
from lbdsl.session.model import OpenModel
from lbdsl.session.texts import heal_blocks, validation_blocks
from tests.data.test_chats import LAST_ALONE, TEMPLATE
from tests.pipeline.conftest import WATCHED, Made
from tests.pipeline.test_texts import HEAL, RULES, weights

pytestmark = pytest.mark.torch

TWO = "stage match { tokens = 1Ki }\n stage distill { lr = 1e-3; data = self }"


def text_with(heal: str) -> str:
    measure = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }'
    judge = 'eval { data = "builtin:wikitext"; tokens = 256; seq = 64 }\nassert ppl_increase < 10000%'
    return f"lbr 1\n{measure}\n{RULES}heal {{ {HEAL}; {heal} }}\n{judge}\n"


def recipe(place: Path, heal: str) -> str:
    (place / "stages.lbr").write_text(text_with(heal))
    return "stages.lbr"


@pytest.fixture
def in_two(made: Callable[..., Made]) -> Made:
    """An artifact that was healed in two stages without a break."""
    return made(text_with(TWO), "--report-to", "tensorboard")


@pytest.fixture
def loaded(made: Callable[..., Made]) -> Path:
    """An artifact that was healed without a break, with the base in memory."""
    return made(text_with("teacher = loaded")).place / "out"


@pytest.fixture
def cached(made: Callable[..., Made]) -> Made:
    """The same with a cached teacher."""
    return made(text_with("teacher = cached"))


def assert_same(one: Path, other: Path) -> None:
    found = weights(other)
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(one).items())


def test_two_stages(workplace: Path, lbdsl, in_two: Made) -> None:
    done, folder = in_two.done, in_two.place / "out"
    recipe(workplace, TWO)
    heal = read_record(folder).unwrap().heal
    assert [(stage["stage"], stage["tokens"], stage["data"]) for stage in heal["stages"]] == [
        ("match", 1024, "builtin:pydoc"),
        ("distill", 2048, "self"),
    ]
    assert heal["tokens"] == 3072
    assert heal["curve"] == heal["stages"][1]["curve"]
    assert "1024 tokens seen of builtin:pydoc" in done.out
    card = (folder / "README.md").read_text()
    assert "Stage `match`: 8 steps, 1024 tokens seen" in card
    said = lbdsl("plan", "stages.lbr", "model")
    assert "heal: match with lora(rank=4), 1Ki tokens of builtin:pydoc" in said.out
    assert "heal: distill with lora(rank=4), 2Ki tokens of self" in said.out
    assert json.loads(lbdsl("plan", "stages.lbr", "model", "--json").out)["heal"]["stages"][0]["name"] == "match"


def test_stages_of_one_text_read_on(workplace: Path) -> None:
    """A stage does not see again what the one before it saw, but one of another length reads from the beginning."""
    text = "heal { seq = 32; stage distill { tokens = 1Ki } stage distill { tokens = 1Ki } stage distill { seq = 64 } }"
    text = text.replace("} stage", "}; stage")
    heal = recipe_from_text(f"layers 2 drop\n{text}\nelse keep\n").unwrap().heal
    first, second, third = heal_blocks(heal, OpenModel(workplace / "model"), workplace)
    rows = [set(map(tuple, blocks.ids.tolist())) for blocks in (first, second)]
    assert not rows[0] & rows[1]
    assert third.seq == 64


@pytest.mark.parametrize("later", ['"some.jsonl"', 'mix("some.jsonl", "builtin:pydoc")'], ids=["a file", "a mixture"])
def test_a_stage_is_watched_on_text_that_no_stage_healed_on(workplace: Path, later: str) -> None:
    """Two sources may share documents, and each splits its own."""
    lines = [json.dumps({"text": f"Document {i}: " + f"word{i} " * 20}) for i in range(300)]
    Path("all.jsonl").write_text("\n".join(lines))
    Path("some.jsonl").write_text("\n".join(lines[:150]))
    first, then = (
        {text.split(":")[0] for text in read_parts(f"{name}.jsonl").texts(TextPart.HEAL)} for name in ("all", "some")
    )
    assert first - then
    stages = f'stage match {{ data = "all.jsonl" }}; stage distill {{ data = {later} }}'
    text = f"heal {{ seq = 64; tokens = 1Ki; {stages} }}"
    heal = recipe_from_text(f"layers 2 drop\n{text}\nelse keep\n").unwrap().heal
    bench = OpenModel("model")
    for blocks in validation_blocks(heal, bench, Path()):
        watched = set(re.findall(r"Document \d+", bench.tokenizer.decode(blocks.ids.flatten())))
        assert watched
        assert not watched & (first | then)


@pytest.mark.parametrize("stop", [pytest.param(3, marks=pytest.mark.slow), 8, pytest.param(12, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_in_any_stage_ends_with_the_same_weights(
    workplace: Path, lbdsl, monkeypatch, in_two: Made, stop: int
) -> None:
    recipe(workplace, TWO)
    steps = iter(range(10**6))
    own = loop.any_of

    def cut(flags):
        stopped, save = own(flags)
        return [stopped or next(steps) == stop, save]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "any_of", cut)
        assert lbdsl("apply", "stages.lbr", "model", "-o", "cut", "--yes").code == 130
    resumed = lbdsl("apply", "stages.lbr", "model", "-o", "cut", "--yes", "--resume")
    assert resumed.code == 0, resumed.err
    assert_same(in_two.place / "out", workplace / "cut")


class PowerCut(KeyboardInterrupt):
    """What was written since it was last synced is lost, except in small files, which may well be there."""

    SMALL = 4096

    def __init__(self, patched: pytest.MonkeyPatch, owner: object, name: str, count: int):
        own, sync = getattr(owner, name), os.fsync
        self.calls, self._count, self._synced = 0, count, dict[tuple[int, int], bytes]()

        def cut(*args, **more):
            self.calls += 1
            if self.calls == self._count:
                raise self
            return own(*args, **more)

        def kept(handle: int) -> None:
            sync(handle)
            found = os.fstat(handle)
            if stat.S_ISREG(found.st_mode):
                self._synced[found.st_dev, found.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()

        patched.setattr(owner, name, cut)
        patched.setattr(os, "fsync", kept)

    def lose(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            found = path.stat()
            if path.is_file() and found.st_size > self.SMALL:
                kept = self._synced.get((found.st_dev, found.st_ino), b"")
                path.write_bytes(kept[: found.st_size].ljust(found.st_size, b"\0"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads what is synced by its handle")
@pytest.mark.parametrize(
    ("owner", "name", "count"),
    [
        pytest.param(teacher.LoadedTeacher, "states", 17, id="the base's hidden states"),
        pytest.param(loop.Loop, "_look", 14, id="a checkpoint", marks=pytest.mark.slow),
        pytest.param(applying, "artifact_beside", 1, id="saved weights", marks=pytest.mark.slow),
    ],
)
def test_what_a_power_cut_leaves_ends_with_the_same_weights(
    workplace: Path, lbdsl, monkeypatch, cached: Made, owner: object, name: str, count: int
) -> None:
    recipe(workplace, "teacher = cached")
    monkeypatch.setattr(heal, "HealRun", partial(heal.HealRun, save_seconds=0.0))
    with monkeypatch.context() as patched:
        power = PowerCut(patched, owner, name, count)
        stopped = lbdsl("apply", "stages.lbr", "model", "-o", "cut", "--yes")
        assert stopped.code == 130, stopped.err
    assert power.calls == count
    power.lose(workplace / "cut.lbdsl-work")
    resumed = lbdsl("apply", "stages.lbr", "model", "-o", "cut", "--yes", "--resume")
    assert resumed.code == 0, resumed.err
    assert_same(cached.place / "out", workplace / "cut")


def test_a_cached_teacher_gives_the_same_model(loaded: Path, cached: Made) -> None:
    records = [read_record(folder).unwrap() for folder in (loaded, cached.place / "out")]
    assert records[0].heal["curve"] == records[1].heal["curve"]
    assert records[0].heal["validation"] == records[1].heal["validation"]
    assert not list(cached.place.glob("**/teacher-*"))
    assert_same(loaded, cached.place / "out")
    config = json.loads((cached.place / "model" / "config.json").read_text())
    size = torch.zeros((), dtype=getattr(torch, config["dtype"])).element_size()
    disk = [record.plan.estimate.disk_bytes for record in records]
    assert disk[1] - disk[0] == (2048 + WATCHED) * config["hidden_size"] * size


def test_losses_are_shown_in_tensorboard(in_two: Made) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, tokens in (("1-match", 1024), ("2-distill", 2048)):
        events = EventAccumulator(str(in_two.place / "out.tensorboard" / name))
        events.Reload()
        stage = read_record(in_two.place / "out").unwrap().heal["stages"][int(name[0]) - 1]
        shown = {kind: [point.value for point in events.Scalars(kind)] for kind in ("train/loss", "eval/loss")}
        assert shown["train/loss"] == pytest.approx([loss for _, loss in stage["curve"]], rel=1e-3)
        assert shown["eval/loss"] == pytest.approx([loss for _, loss in stage["validation"]], rel=1e-3)
        assert stage["curve"][-1][0] == tokens


def test_a_tracker_that_is_not_installed_is_refused_before_the_work(workplace: Path, lbdsl) -> None:
    done = lbdsl("apply", recipe(workplace, ""), "model", "-o", "out", "--yes", "--report-to", "wandb")
    assert done.code == 1
    assert "LB485" in done.err
    assert "pip install wandb" in done.err
    assert "measuring" not in done.err


TURNS = ("user", "what is {}?"), ("assistant", "a number, {}"), ("user", "and then?"), ("assistant", "no more")
CHATS = [[(role, said.format(n)) for role, said in TURNS] for n in range(400)]


def with_chats(place: Path, template: str | None) -> None:
    rows = ({"messages": [{"role": role, "content": said} for role, said in chat]} for chat in CHATS)
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = place / "model"
    if model.is_symlink():
        # The other tests' stays as it is.
        shared = model.resolve()
        model.unlink()
        shutil.copytree(shared, model)
    path = model / "chat_template.jinja"
    path.write_text(template) if template is not None else path.unlink(missing_ok=True)


def test_healed_on_what_an_assistant_says(workplace: Path, lbdsl) -> None:
    with_chats(workplace, TEMPLATE)
    name = recipe(
        workplace, 'stage distill { data = "chats.jsonl"; loss_on = assistant; documents = apart; teacher = cached }'
    )
    done = lbdsl("apply", name, "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    heal = read_record(workplace / "out").unwrap().heal
    assert heal["data"] == "chats.jsonl"
    assert heal["validation"][-1][1] < heal["validation"][0][1]


@pytest.mark.parametrize(
    ("template", "stage", "code"),
    [
        (None, 'data = "chats.jsonl"', "LB453"),
        (LAST_ALONE, 'data = "chats.jsonl"; loss_on = assistant', "LB454"),
        (TEMPLATE, 'data = "builtin:pydoc"; loss_on = assistant', "LB455"),
        (TEMPLATE, 'data = mix("chats.jsonl", "builtin:pydoc"); loss_on = assistant', "LB455"),
    ],
)
def test_chats_that_cannot_heal_are_refused(workplace: Path, lbdsl, template: str | None, stage: str, code: str) -> None:
    with_chats(workplace, template)
    done = lbdsl("apply", recipe(workplace, f"stage distill {{ {stage} }}"), "model", "-o", "out", "--yes")
    assert done.code == 1
    assert code in done.err
    assert not (workplace / "out").exists()
    if code != "LB454":  # known without tokenizing them all
        assert "measuring layers" not in done.err
        assert lbdsl("plan", "stages.lbr", "model").code == 1


def test_sinks_alone_need_learned_sinks_in_every_stage_that_trains_them(workplace: Path, lbdsl) -> None:
    done = lbdsl("plan", recipe(workplace, "stage match { method = sinks }; stage distill { tokens = 1Ki }"), "model")
    assert done.code == 1
    assert "LB484" in done.err


def test_without_memory_for_a_step_layers_are_computed_twice(workplace: Path, lbdsl, monkeypatch, loaded: Path) -> None:
    recipe(workplace, "")
    monkeypatch.setattr(running, "free_bytes", lambda device: 1000)
    done = lbdsl("apply", "stages.lbr", "model", "-o", "twice", "--yes")
    assert done.code == 0, done.err
    assert "gradient checkpointing" in done.err
    plain, twice = (read_record(folder).unwrap().heal["curve"] for folder in (loaded, workplace / "twice"))
    assert [tokens for tokens, _ in plain] == [tokens for tokens, _ in twice]
    assert [loss for _, loss in plain] == pytest.approx([loss for _, loss in twice], rel=1e-3)


def test_no_room_for_the_hidden_states_is_a_coded_error(workplace: Path, lbdsl, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    name = recipe(workplace, "teacher = cached")
    with monkeypatch.context() as patched:
        patched.setattr(teacher.os, "posix_fallocate", full)
        done = lbdsl("apply", name, "model", "-o", "out", "--yes")
    assert done.code == 1
    assert "LB463" in done.err
    assert not (workplace / "out").exists()
    assert lbdsl("apply", name, "model", "-o", "out", "--yes", "--resume").code == 0
