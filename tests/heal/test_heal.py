"""The losses against naive ones in higher precision, and healing that improves, resumes and stops."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from lbdsl.core.diagnostic import LbdslError
from lbdsl.heal import heal
from lbdsl.heal.changed import segments
from lbdsl.heal.heal import HealInterrupted, HealRun, heal_model
from lbdsl.heal.loop import last_whole_checkpoint
from lbdsl.heal.losses import chunked_kl, hidden_loss
from lbdsl.heal.teacher import LoadedTeacher
from lbdsl.heal.text import HealingText
from lbdsl.heal.validation import every, validation_sequences
from lbdsl.model.surgery import to_hybrid
from lbdsl.parts.attention import SINK_LOGITS, Attention
from lbdsl.recipe.schema import FullWeights, Lora
from lbdsl.recipe.schema_blocks import LearnedSinks, Stage
from tests.layer_changes import swa
from tests.specs import LEARNED
from tests.tiny_model import tiny_llama

HEAL = Stage(tokens=12 * 2 * 16, seq=16, batch=2, lr=5e-3, method=Lora(rank=4, alpha=8))


def tiny(seed: int = 0):
    sizes = {"vocab_size": 97, "intermediate_size": 48, "num_hidden_layers": 3, "max_position_embeddings": 64}
    return to_hybrid(tiny_llama(seed, **sizes, initializer_range=0.2, eos_token_id=None).eval())


def damaged(teacher):
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.model.layers[1].self_attn.o_proj.weight.zero_()
    return student


def with_learned_sinks(teacher):
    """A student whose last layer has a window and learned sinks, one of them without effect."""
    student = copy.deepcopy(teacher)
    spec = swa(4, LEARNED).of(student.config.lbdsl["layers"][2])
    sinks = torch.zeros(spec["mixer"]["heads"])
    sinks[1] = -3e4
    student.set_layer(2, spec, {"self_attn.sinks": sinks})
    return student


def blocks(heal: Stage = HEAL) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 97, (heal.steps * heal.batch, heal.seq), generator=generator)


def mean_kl(teacher, student, ids) -> float:
    with torch.no_grad():
        base = F.log_softmax(teacher(input_ids=ids).logits.double(), -1)
        changed = F.log_softmax(student(input_ids=ids).logits.double(), -1)
    return (base.exp() * (base - changed)).sum(-1).mean().item()


def run(teacher, student, folder, heal=HEAL, source=None, text=None, should_stop=lambda: False, **rest):
    source, text = source or LoadedTeacher(teacher), text or HealingText(blocks(heal))
    one = HealRun(heal, source, text, segments(student, teacher), folder, **rest)
    return heal_model(student, one, lambda done, total, note: None, should_stop)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize(("tokens", "chunk"), [(1, 4), (4, 4), (13, 4), (13, 100)])
def test_chunked_kl_is_the_naive_one(tokens: int, chunk: int, cap: float | None) -> None:
    def capped(logits):
        return logits if cap is None else cap * torch.tanh(logits / cap)

    torch.manual_seed(0)
    student = torch.randn(tokens, 8, requires_grad=True)
    head, teacher, teacher_head = torch.randn(31, 8), torch.randn(tokens, 8), torch.randn(31, 8)
    loss = chunked_kl(student, head, teacher, teacher_head, chunk=chunk, cap=cap)
    (3.0 * loss).backward()

    precise = student.detach().double().requires_grad_(True)
    base = F.log_softmax(capped(teacher.double() @ teacher_head.double().T), -1)
    naive = (base.exp() * (base - F.log_softmax(capped(precise @ head.double().T), -1))).sum(-1).mean()
    (3.0 * naive).backward()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-5)
    assert torch.allclose(student.grad.double(), precise.grad, atol=1e-5)


def test_chunked_kl_keeps_small_gradients_in_float16() -> None:
    """Scaled as mixed precision scales a loss, over a batch of thousands of tokens."""
    torch.manual_seed(0)
    head, teacher = torch.randn(101, 16) * 0.05, torch.randn(4096, 16)
    student, scale = teacher + 0.02 * torch.randn(4096, 16), 65536.0

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        hidden = student.to(dtype).clone().requires_grad_()
        (scale * chunked_kl(hidden, head.to(dtype), teacher.to(dtype), head.to(dtype))).backward()
        assert hidden.grad is not None
        return hidden.grad.float() / scale

    wanted = gradient(torch.float32)
    assert (gradient(torch.float16) - wanted).norm() < 0.1 * wanted.norm()


def test_chunked_kl_refuses_a_trained_head() -> None:
    with pytest.raises(ValueError, match="head"):
        chunked_kl(torch.randn(2, 4), torch.randn(5, 4, requires_grad=True), torch.randn(2, 4), torch.randn(5, 4))


def test_hidden_loss_is_relative() -> None:
    teacher = [torch.full((1, 2, 3), 2.0), torch.ones(1, 2, 3)]
    student = [torch.full((1, 2, 3), 1.0), torch.ones(1, 2, 3)]
    assert hidden_loss(student, teacher).item() == pytest.approx(0.125)  # (0.25 + 0) / 2


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), FullWeights()])
@pytest.mark.parametrize("hidden_weight", [0.0, 0.1])
def test_healing_brings_the_student_nearer(tmp_path, method, hidden_weight) -> None:
    teacher, heal = (
        tiny(),
        HEAL.model_copy(update={"method": method, "hidden_weight": hidden_weight, "tokens": 40 * 2 * 16}),
    )
    student = damaged(teacher)
    before = mean_kl(teacher, student, blocks(heal))
    embedding = student.model.embed_tokens.weight.clone()
    norms = {name: weight.clone() for name, weight in student.named_parameters() if name.endswith("norm.weight")}
    healed, report = run(teacher, student, tmp_path, heal)
    assert mean_kl(teacher, healed, blocks(heal)) < 0.7 * before
    assert not any("lora" in name for name, _ in healed.named_parameters())
    assert torch.equal(healed.model.embed_tokens.weight, embedding)
    # The norms before the first change, which teacher and student share, and after it.
    moved = {name for name, weight in healed.named_parameters() if name in norms and not torch.equal(weight, norms[name])}
    assert "model.norm.weight" in moved
    assert moved < norms.keys()
    assert healed.config.use_cache, "as the base has it"
    assert report.tokens == 40 * 2 * 16
    assert report.curve[-1][0] == report.tokens


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), FullWeights(), LearnedSinks()])
def test_learned_sinks_are_trained(tmp_path, method) -> None:
    teacher = tiny()
    student = with_learned_sinks(teacher)
    student_before = copy.deepcopy(student)
    before = student_before.model.layers[2].self_attn.sinks.detach()
    healed, _ = run(teacher, student, tmp_path, Stage(tokens=6 * 32, seq=16, batch=2, lr=5e-3, method=method))
    after = healed.model.layers[2].self_attn.sinks.detach()
    moved = (after - before).abs()
    assert moved[1] == 0
    assert 0.01 < moved[0] < 6 * Attention.trained[SINK_LOGITS.name] * 5e-3
    assert healed.model.layers[2].self_attn.sinks.dtype == healed.dtype
    if isinstance(method, LearnedSinks):
        old = dict(student_before.named_parameters())
        assert all(torch.equal(p, old[n]) for n, p in healed.named_parameters() if not n.endswith("sinks"))


@pytest.mark.parametrize(
    ("damaged", "heal"),
    [(damaged, HEAL), (with_learned_sinks, HEAL), (with_learned_sinks, HEAL.model_copy(update={"method": LearnedSinks()}))],
)
def test_a_resumed_run_ends_with_the_very_weights(tmp_path, damaged, heal) -> None:
    teacher = tiny()
    whole, whole_report = run(teacher, damaged(teacher), tmp_path / "whole", heal)

    polls = iter(range(100))
    with pytest.raises(HealInterrupted):
        run(teacher, damaged(teacher), tmp_path / "cut", heal, should_stop=lambda: next(polls) >= 4)
    checkpoint = last_whole_checkpoint(tmp_path / "cut")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-5"
    # A few numbers are no reason to write the whole model.
    assert isinstance(heal.method, LearnedSinks) == (max(f.stat().st_size for f in checkpoint.iterdir()) < 20_000)
    # What the first process took counts, too.
    rows = json.loads((tmp_path / "cut" / "curve.json").read_text())
    (tmp_path / "cut" / "curve.json").write_text(json.dumps([[*row[:3], 1000.0] for row in rows]))
    # A checkpoint that a kill cut off in the middle is not taken.
    (tmp_path / "cut" / "checkpoint-7").mkdir()
    resumed, report = run(teacher, damaged(teacher), tmp_path / "cut", heal, resume=True)
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert report.curve == whole_report.curve
    assert 1000 <= report.seconds < 1000 + 300


def test_a_loss_that_is_no_number_is_a_coded_error(tmp_path) -> None:
    teacher = tiny()
    student = damaged(teacher)
    with torch.no_grad():
        student.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(LbdslError) as caught:
        run(teacher, student, tmp_path)
    assert [d.code for d in caught.value.diagnostics] == ["LB464"]


def test_a_checkpoint_that_only_the_first_process_sees_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(heal.processes, "shared", lambda _: tmp_path / "checkpoint-5")
    teacher = tiny()
    with pytest.raises(LbdslError, match="does not see") as caught:
        run(teacher, damaged(teacher), tmp_path, resume=True)
    assert [d.code for d in caught.value.diagnostics] == ["LB458"]


def test_a_lost_process_is_told_from_other_errors(monkeypatch) -> None:
    for count, said, kind in (
        (2, "[gloo] Connection closed by peer", LbdslError),
        (2, "sizes do not match", RuntimeError),
        (1, "[gloo] Connection closed by peer", RuntimeError),
    ):
        monkeypatch.setattr(heal.processes, "process_count", lambda count=count: count)
        with pytest.raises(kind) as caught, heal.processes.together():
            raise RuntimeError(said)
        if kind is LbdslError:
            assert [d.code for d in caught.value.diagnostics] == ["LB459"]


def test_the_curve_is_kept_beside_the_checkpoints(tmp_path) -> None:
    teacher = tiny()
    _, report = run(teacher, damaged(teacher), tmp_path)
    rows = json.loads((tmp_path / "curve.json").read_text())
    assert [(tokens, loss) for _, tokens, loss, _ in rows] == list(report.curve)


def apart(sequences: int = 1) -> torch.Tensor:
    return torch.randint(0, 97, (sequences, 16), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), FullWeights()])
def test_the_weights_that_are_best_on_other_text_are_kept(tmp_path, method) -> None:
    """With a learning rate that is too high at its peak, the end is not the best."""
    teacher, heal = tiny(), HEAL.model_copy(update={"method": method, "lr": 0.02, "tokens": 40 * 2 * 16})
    healed, report = run(teacher, damaged(teacher), tmp_path, heal, apart=HealingText(apart()))
    losses = dict(report.validation)
    assert report.validation[0][0] == 0
    assert losses[0] == pytest.approx(mean_kl(teacher, damaged(teacher), apart()), rel=1e-4)
    assert report.kept == min(losses, key=lambda tokens: losses[tokens])
    assert mean_kl(teacher, healed, apart()) == pytest.approx(losses[report.kept], rel=2e-2, abs=1e-4)
    assert len(list(tmp_path.glob("best-*.safetensors"))) == 1


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), FullWeights()])
def test_what_healing_makes_worse_stays_as_it_was_and_ends_early(tmp_path, method) -> None:
    teacher, heal = tiny(), HEAL.model_copy(update={"method": method, "lr": 0.05, "tokens": 60 * 2 * 16})
    before, student = copy.deepcopy(teacher), copy.deepcopy(teacher)
    with torch.no_grad():
        for model in (before, student):
            model.model.layers[1].self_attn.o_proj.weight.mul_(0.99)
    healed, report = run(teacher, student, tmp_path, heal, apart=HealingText(apart()))
    assert report.kept == 0
    assert report.steps == 24 < heal.steps  # every sixth step, and four of them were no better
    assert [tokens // 32 for tokens, _ in report.validation] == [0, 6, 12, 18, 24]
    for (name, one), (_, other) in zip(before.named_parameters(), healed.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("heal", [HEAL, HEAL.model_copy(update={"lr": 0.05})])
def test_a_resumed_run_keeps_the_same_weights_as_an_unbroken_one(tmp_path, heal) -> None:
    teacher = tiny()
    whole, whole_report = run(teacher, damaged(teacher), tmp_path / "whole", heal, apart=HealingText(apart()))
    polls = iter(range(100))
    with pytest.raises(HealInterrupted):
        run(
            teacher,
            damaged(teacher),
            tmp_path / "cut",
            heal,
            should_stop=lambda: next(polls) >= 2,
            apart=HealingText(apart()),
        )
    resumed, report = run(teacher, damaged(teacher), tmp_path / "cut", heal, resume=True, apart=HealingText(apart()))
    assert (report.validation, report.kept, report.curve) == (
        whole_report.validation,
        whole_report.kept,
        whole_report.curve,
    )
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_run_resumed_at_its_early_end_trains_no_more(tmp_path) -> None:
    """Killed after the last checkpoint, before anything else."""
    teacher, heal = tiny(), HEAL.model_copy(update={"lr": 0.05, "tokens": 60 * 2 * 16})

    def student():
        found = copy.deepcopy(teacher)
        with torch.no_grad():
            found.model.layers[1].self_attn.o_proj.weight.mul_(0.99)
        return found

    ended, report = run(teacher, student(), tmp_path, heal, apart=HealingText(apart()), save_seconds=0.0)
    assert last_whole_checkpoint(tmp_path).name == f"checkpoint-{report.steps}"
    resumed, again = run(teacher, student(), tmp_path, heal, resume=True, apart=HealingText(apart()))
    assert (again.steps, again.kept, again.validation) == (report.steps, report.kept, report.validation)
    for (name, one), (_, other) in zip(ended.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_watching_takes_a_tenth_of_the_time_at_most() -> None:
    text = torch.zeros(8, 256)
    assert every(20, 2048, text) == 5  # 40k tokens: four times
    assert every(100, 2048, text) == 10
    assert every(3, 2048, text) == 5  # at the end alone


@pytest.mark.parametrize(("tokens", "seq", "count"), [(20480, 1024, 2), (50_000, 512, 8), (200_000, 1024, 4), (512, 64, 2)])
def test_a_short_run_is_watched_on_less(tokens: int, seq: int, count: int) -> None:
    assert validation_sequences(Stage(tokens=tokens, seq=seq, batch=1)) == count
