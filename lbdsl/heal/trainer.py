"""A `transformers.Trainer` that distils the base model into the changed one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lbdsl.families.rows import SINK_LOGITS
from lbdsl.heal.objective import chunked_kl, hidden_loss

COMPLETE = "lbdsl-complete"
LEARNED_FILE = "learned.safetensors"
SINK_LR = 300.0
"""The learning rate of learned sinks, relative to that of weights: they are logits, which have to move by whole numbers."""


@dataclass(frozen=True)
class HealPoint:
    """One logged step: tokens seen so far, mean training loss since the last point, tokens per second of this process."""

    step: int
    tokens: int
    loss: float
    tokens_per_second: float


class BlockDataset(Dataset):
    """The sequences of one [S, seq] tensor of token ids, in order."""

    def __init__(self, ids_SN: Tensor):
        self.ids_SN = ids_SN

    def __len__(self) -> int:
        return self.ids_SN.shape[0]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids_SN[index]}


class HealTrainer(Trainer):
    """Overrides the loss and the data order; optimizer, schedule, distributed training and resuming are the Trainer's."""

    def __init__(self, *, teacher: Any, kl_weight: float, hidden_weight: float, **kwargs: Any):
        super().__init__(**kwargs)
        # A list keeps the teacher out of the student's module tree, so that it is neither wrapped nor saved.
        self._teacher = [teacher]
        self._kl_weight = kl_weight
        self._hidden_weight = hidden_weight
        self.model_accepts_loss_kwargs = False

    @property
    def _trains_sinks_alone(self) -> bool:
        model = self.accelerator.unwrap_model(self.model)
        return {name for name, p in model.named_parameters() if p.requires_grad} == learned_sinks(model).keys()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The trained weights: not the whole model for the sake of a few numbers, which are in LEARNED_FILE."""
        if self._trains_sinks_alone:
            Path(output_dir or self.args.output_dir or ".").mkdir(parents=True, exist_ok=True)
        else:
            super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._trains_sinks_alone:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's, with learned sinks in a group of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        sinks = learned_sinks(self.accelerator.unwrap_model(self.model))
        own = {id(sink) for sink in sinks.values()}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        if sinks:
            optimizer.add_param_group(
                {"params": list(sinks.values()), "lr": SINK_LR * self.args.learning_rate, "weight_decay": 0.0}
            )
        return optimizer

    def _get_train_sampler(self, *_args: Any, **_kwargs: Any) -> SequentialSampler:
        assert isinstance(self.train_dataset, BlockDataset)
        return SequentialSampler(self.train_dataset)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ids_BN = inputs["input_ids"]
        teacher = self._teacher[0]
        with torch.no_grad(), _captured(teacher, self._hidden_weight > 0) as taught:
            teacher(input_ids=ids_BN, use_cache=False, logits_to_keep=1)
        student = _causal_lm(self.accelerator.unwrap_model(model))
        with _captured(student, self._hidden_weight > 0) as learned:
            outputs = model(input_ids=ids_BN, use_cache=False, logits_to_keep=1)
        # Logits are linear in the hidden states, so dividing the hidden states is equivalent.
        learned_ND, taught_ND = (
            hidden_BND.flatten(0, -2) / (student.logits_divisor or 1.0)
            for hidden_BND in (learned.final_BND, taught.final_BND)
        )
        loss = self._kl_weight * chunked_kl(
            learned_ND, student.lm_head.weight, taught_ND, teacher.lm_head.weight, cap=student.logit_softcap
        )
        if self._hidden_weight > 0:
            loss = loss + self._hidden_weight * hidden_loss(learned.layers, taught.layers)
        return (loss, outputs) if return_outputs else loss


def learned_sinks(model: nn.Module) -> dict[str, nn.Parameter]:
    """The learned sinks of a model by name."""
    return {name: sinks for name, sinks in model.named_parameters() if name.endswith(SINK_LOGITS.name)}


class _Captured:
    """Filled by hooks in one forward: the final normed hidden states, and optionally those after each layer."""

    def __init__(self) -> None:
        self.final_BND: Tensor = torch.empty(0)
        self.layers: list[Tensor] = []


@contextmanager
def _captured(causal_lm: Any, with_layers: bool):
    seen = _Captured()
    hooks = [causal_lm.model.norm.register_forward_hook(lambda _m, _i, out: setattr(seen, "final_BND", out))]
    if with_layers:
        for layer in causal_lm.model.layers:
            hooks.append(
                layer.register_forward_hook(
                    lambda _m, _i, out: seen.layers.append(out[0] if isinstance(out, tuple) else out)
                )
            )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _causal_lm(model: Any) -> Any:
    """The causal language model under a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class HealCallback(TrainerCallback):
    """Reports points, requests a checkpoint every `save_seconds`, marks checkpoints as complete, and stops on request."""

    def __init__(
        self,
        *,
        tokens_per_step: int,
        on_point: Callable[[HealPoint, int], None],
        should_stop: Callable[[], bool],
        save_seconds: float,
    ):
        self._tokens_per_step = tokens_per_step
        self._on_point = on_point
        self._should_stop = should_stop
        self._save_seconds = save_seconds
        self._started = self._saved = time.monotonic()
        self._first_step = 0
        self.stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = self._saved = time.monotonic()
        self._first_step = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._should_stop():
            self.stopped = control.should_training_stop = True
        if self.stopped or state.global_step >= state.max_steps or time.monotonic() - self._saved >= self._save_seconds:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        self._saved = time.monotonic()
        assert args.output_dir is not None
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # PEFT saves its adapters alone.
        save_file({name: sinks.detach() for name, sinks in learned_sinks(others["model"]).items()}, folder / LEARNED_FILE)
        (folder / COMPLETE).touch()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            seconds = max(time.monotonic() - self._started, 1e-9)
            done = state.global_step - self._first_step
            point = HealPoint(
                state.global_step,
                state.global_step * self._tokens_per_step,
                float(logs["loss"]),
                done * self._tokens_per_step / seconds,
            )
            self._on_point(point, state.max_steps)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written completely, and not cut off by a kill."""
    return (checkpoint / COMPLETE).is_file() and (checkpoint / LEARNED_FILE).is_file()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if any."""
    found = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
