"""`heal_model`: run the `heal` block of a recipe on a changed model."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lbdsl.core.diagnostic import fail
from lbdsl.model.computing import cast_weights
from lbdsl.model.quiet import quiet_transformers
from lbdsl.parts import parts
from lbdsl.recipe.schema import Heal, Lora
from lbdsl.recipe.schema_blocks import LearnedSinks

POINTS = 40
"""Approximate number of recorded points of the training curve."""

CURVE_FILE = "curve.json"


@dataclass(frozen=True)
class HealReport:
    """The result of healing. `tokens` are tokens seen; `curve` has (tokens seen, mean loss since the previous point);
    `seconds` include those of earlier, interrupted processes."""

    steps: int
    tokens: int
    passes: float
    trained_params: int
    curve: tuple[tuple[int, float], ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class HealInterrupted(Exception):
    """Healing stopped on request, after saving a checkpoint."""


def steps_of(heal: Heal) -> int:
    """Number of optimizer steps: whole batches of `batch` x `seq` tokens in `tokens`, at least one."""
    return max(1, heal.tokens // (heal.batch * heal.seq))


def heal_model(
    student: nn.Module,
    teacher: nn.Module,
    heal: Heal,
    ids_SN: Tensor,
    *,
    passes: float,
    folder: Path,
    progress: Callable[[int, int, str], None],
    should_stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    save_seconds: float = 60.0,
) -> tuple[nn.Module, HealReport]:
    """Distil `teacher` into `student` and return the healed model, adapters merged, in the student's dtype.

    `ids_SN` holds steps_of(heal) * heal.batch sequences in training order. Checkpoints are saved in `folder`; with `resume`
    training continues from the newest complete one. `progress(done_tokens, total_tokens, note)`. Raises HealInterrupted,
    after saving a checkpoint, if `should_stop` returns true; LbdslError (LB464) if the loss is NaN or infinite.
    """
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from lbdsl.heal.trainer import (
        LEARNED_FILE,
        BlockDataset,
        HealCallback,
        HealPoint,
        HealTrainer,
        is_whole,
        last_whole_checkpoint,
        learned_sinks,
    )

    steps = steps_of(heal)
    tokens_per_step = heal.batch * ids_SN.shape[1]
    if ids_SN.shape[0] < steps * heal.batch:
        raise ValueError(f"{steps} steps of {heal.batch} sequences need more than {ids_SN.shape[0]} sequences")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = last_whole_checkpoint(folder) if resume else None
    for stale in folder.glob("checkpoint-*"):
        # An incomplete checkpoint, left by a kill, would count towards save_total_limit.
        if checkpoint is None or not is_whole(stale):
            shutil.rmtree(stale)
    if checkpoint is None:
        (folder / CURVE_FILE).unlink(missing_ok=True)

    use_cache = student.config.use_cache  # type: ignore[union-attr]
    dtype = next(student.parameters()).dtype
    device = next(student.parameters()).device
    set_seed(heal.seed)
    with quiet_transformers():
        trained = _with_trainable_weights(student, heal)
    if checkpoint is not None:
        sinks = learned_sinks(trained)
        for name, value in load_file(checkpoint / LEARNED_FILE).items():
            sinks[name].data.copy_(value)
    curve = _Curve(folder / CURVE_FILE, int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)

    earlier = curve.seconds

    def on_point(point: HealPoint, last: int) -> None:
        if not math.isfinite(point.loss):
            raise _diverged(f"the healing loss is {point.loss} at step {point.step}")
        curve.add(point.step, point.tokens, point.loss, earlier + time.monotonic() - started)
        progress(point.tokens, last * tokens_per_step, f"loss {point.loss:.3f}, {point.tokens_per_second:.0f} tok/s")

    callback = HealCallback(
        tokens_per_step=tokens_per_step, on_point=on_point, should_stop=should_stop, save_seconds=save_seconds
    )
    started = time.monotonic()
    with quiet_transformers():
        trainer = HealTrainer(
            teacher=teacher,
            kl_weight=heal.kl_weight,
            hidden_weight=heal.hidden_weight,
            model=trained,
            args=_arguments(heal, folder, dtype, device),
            train_dataset=BlockDataset(ids_SN),
            callbacks=[callback],
        )
        # With its progress bar off, the Trainer prints its logs; only lbdsl may write to the terminal.
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if callback.stopped and trainer.state.global_step < steps:
        raise HealInterrupted
    if not all(bool(p.isfinite().all()) for p in trained.parameters() if p.requires_grad):
        raise _diverged("healing ended with weights that are no numbers")
    report = HealReport(
        steps=steps,
        tokens=steps * tokens_per_step,
        passes=passes,
        trained_params=sum(p.numel() for p in trained.parameters() if p.requires_grad),
        curve=curve.points,
        seconds=round(earlier + time.monotonic() - started, 1),
    )
    healed = _merged(trained, dtype)
    # The Trainer turns it off; restore it before the model is saved.
    healed.config.use_cache = use_cache  # type: ignore[union-attr]
    return healed, report


def _diverged(message: str) -> Exception:
    return fail("LB464", message, help="lower `lr` in the heal block, or use `method = lora(...)`")


def _arguments(heal: Heal, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """TrainingArguments: cosine to zero after 5 % warm-up, AdamW without weight decay, checkpoints by HealCallback."""
    from transformers import TrainingArguments

    steps = steps_of(heal)
    on_gpu = device.type == "cuda"
    if on_gpu and device.index is not None:
        # The Trainer uses the current device, not the model's.
        torch.cuda.set_device(device)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=heal.batch,
        learning_rate=heal.lr,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(steps * 0.05),
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        seed=heal.seed,
        data_seed=heal.seed,
        use_cpu=device.type == "cpu",
        bf16=dtype == torch.bfloat16 and not (on_gpu and not torch.cuda.is_bf16_supported()),
        fp16=dtype == torch.float16 and on_gpu,
        logging_strategy="steps",
        logging_steps=max(1, steps // POINTS),
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
        eval_strategy="no",
    )
    # One process heals on one device: with several visible, the Trainer would split each batch over all of them.
    args._n_gpu = min(args.n_gpu, 1)
    return args


def _with_trainable_weights(student: nn.Module, heal: Heal) -> Any:
    """Make learned sinks trainable, and LoRA adapters on the layers' linear maps, or the layers' weights and final norm,
    unless sinks are trained alone; all in fp32. Freeze all else. LoRA skips maps that compute in another way than by their
    matrix: merging an adapter would not give the output that was trained. Packed maps are rounded later, when they are
    saved; where inputs are rounded to 8 bits, the adapter's own are not. Raises LB484 if no maps are left."""
    from lbdsl.heal.trainer import learned_sinks

    for parameter in student.parameters():
        parameter.requires_grad_(False)
    for sinks in learned_sinks(student).values():
        sinks.data = sinks.data.float()
        sinks.requires_grad_(True)
    if isinstance(heal.method, LearnedSinks):
        return student
    if isinstance(heal.method, Lora):
        from peft import LoraConfig, get_peft_model

        maps = [
            name for name, module in student.named_modules() if isinstance(module, nn.Linear) and ".layers." in f".{name}"
        ]
        stored = tuple(
            f"{name}.{module}."
            for name, layer in student.named_modules()
            for module, storage in getattr(layer, "spec", {}).get("weights", {}).items()
            if not parts()[storage["kind"]].model_validate(storage).packs  # type: ignore[attr-defined]
        )
        targets = [name for name in maps if not f"{name}.".startswith(stored)]
        if not targets:
            raise fail(
                "LB484",
                "LoRA has nothing to train: every linear map of the layers is stored in a way of its own",
                help="use `method = full` in the heal block, or leave some maps as they are",
            )
        config = LoraConfig(
            r=heal.method.rank,
            lora_alpha=heal.method.alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        own = learned_sinks(student).values()
        trained = get_peft_model(student, config)
        for sinks in own:
            sinks.requires_grad_(True)
        return trained
    # Updates at lr 1e-4 are lost to rounding in bf16 weights: train in fp32, with autocast for fast matrix products.
    cast_weights(student, "float32")
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(".layers." in f".{name}" or name.endswith("model.norm.weight"))
    return student


def _merged(trained: Any, dtype: torch.dtype) -> nn.Module:
    """The model with adapters merged into the weights in fp32, then cast back to `dtype`."""
    if hasattr(trained, "merge_and_unload"):
        cast_weights(trained, "float32")
        trained = trained.merge_and_unload()
    for parameter in trained.parameters():
        parameter.requires_grad_(False)
    cast_weights(trained, str(dtype).removeprefix("torch."))
    return trained.eval()


class _Curve:
    """Points of the training curve, saved beside the checkpoints so that a resumed run has the complete curve."""

    def __init__(self, path: Path, from_step: int):
        self._path = path
        self._rows: list[list[float]] = []
        if path.is_file():
            self._rows = [row for row in json.loads(path.read_text()) if row[0] <= from_step]

    @property
    def seconds(self) -> float:
        """Seconds that earlier processes spent on these points."""
        return self._rows[-1][3] if self._rows else 0.0

    def add(self, step: int, tokens: int, loss: float, seconds: float) -> None:
        self._rows.append([step, tokens, loss, round(seconds, 1)])
        beside = self._path.with_suffix(".tmp")
        beside.write_text(json.dumps(self._rows))
        beside.replace(self._path)

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        return tuple((int(tokens), float(loss)) for _step, tokens, loss, _seconds in self._rows)
