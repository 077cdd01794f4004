"""A `transformers.Trainer` that heals, and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from lbdsl.core.files import sync_files
from lbdsl.core.processes import process_number
from lbdsl.heal.processes import any_of, shared
from lbdsl.heal.sharding import whole
from lbdsl.heal.text import HealingText
from lbdsl.heal.validation import Measure, Validation
from lbdsl.parts import parts

COMPLETE = "lbdsl-complete"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
"""Not strict: a stage `match` has no gradient, and so no state, for the final norm."""
LEARNED_FILE = "learned.safetensors"


class BlockDataset(Dataset):
    """Sequences of token ids [S, N] in order, their numbers from `first` on, and what a objective needs to know of their
    tokens."""

    def __init__(self, text: HealingText, first: int = 0):
        self._tensors = {
            "input_ids": text.ids_SN,
            "rows": torch.arange(first, first + len(text.ids_SN)),
            "positions": text.positions_SN,
            "counts": text.counts_SN,
        }

    def __len__(self) -> int:
        return len(self[:]["rows"])

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self._tensors.items() if tensor is not None}


class HealTrainer(Trainer):
    """A `Objective` gives the loss; optimizer, schedule, distributed training and resuming are the Trainer's. Overrides the
    data order, and what of the model is saved: the weights that are trained, by HealCallback."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = False

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        Path(output_dir or self.args.output_dir or ".").mkdir(parents=True, exist_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: `heal_model` has loaded the weights."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The optimizer's state by the names of weights, whole: another number of processes may read it."""
        assert self.model is not None
        assert self.lr_scheduler is not None
        state = get_optimizer_state_dict(self.model, self._own_optimizer, options=WHOLE)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            read = partial(torch.load, map_location="cpu", weights_only=True)
            state = read(Path(checkpoint) / OPTIMIZER_NAME)
            assert self.model is not None
            assert self.lr_scheduler is not None
            set_optimizer_state_dict(self.model, self._own_optimizer, state, options=WHOLE)
            self.lr_scheduler.load_state_dict(read(Path(checkpoint) / SCHEDULER_NAME))

    @property
    def _own_optimizer(self) -> Any:
        """Without accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's, with what parts always train in groups of their own, by the factor of its rate."""
        optimizer = super().create_optimizer(*args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        own: dict[float, list[nn.Parameter]] = {}
        for name, factor in always_trained(model).items():
            parameter = model.get_parameter(name)
            if parameter.requires_grad:
                own.setdefault(factor, []).append(parameter)
        chosen = {id(parameter) for group in own.values() for parameter in group}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
        for factor, parameters in own.items():
            optimizer.add_param_group({"params": parameters, "lr": factor * self.args.learning_rate, "weight_decay": 0.0})
        # The names of weights in a saved state do not tell empty groups apart.
        optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _get_train_sampler(self, *_args: Any, **_kwargs: Any) -> SequentialSampler:
        assert isinstance(self.train_dataset, BlockDataset)
        return SequentialSampler(self.train_dataset)

    @torch.no_grad()
    def validation_loss(self, text: BlockDataset) -> float:
        """The mean loss over the batches of a text, as in training."""
        model = self.model
        assert model is not None
        training = model.training
        model.eval()
        total, size = 0.0, self.args.per_device_train_batch_size
        for start in range(0, len(text), size):
            inputs = {name: values.to(self.args.device) for name, values in text[start : start + size].items()}
            total += float(model(**inputs)) * len(inputs["rows"])
        model.train(training)
        total = float(self.accelerator.reduce(torch.tensor(total, device=self.args.device), "mean"))
        # Logging would cancel the point of the training loss that is due at this step.
        due = self.control.should_log
        self.log({"eval_loss": total / len(text)})
        self.control.should_log = due
        return total / len(text)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = model(**inputs)
        return (loss, {}) if return_outputs else loss


def always_trained(model: nn.Module) -> dict[str, float]:
    """The parameters that parts train in any healing, such as learned sinks: the factor of their rate, by name."""
    factors = {f".{name}": factor for part in parts().values() for name, factor in part.trained.items()}
    names = (name for name, _ in model.named_parameters())
    return {name: factor for name in names for end, factor in factors.items() if name.endswith(end)}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class HealCallback(TrainerCallback):
    """Reports points, requests a checkpoint every `save_seconds`, marks checkpoints as complete, measures the loss on text
    apart, and stops on request or when that no longer falls."""

    def __init__(
        self,
        *,
        tokens_per_step: int,
        on_point: Callable[[int, float, float, int], None],
        should_stop: Callable[[], bool],
        save_seconds: float,
        validation: Validation | None = None,
    ):
        self._tokens_per_step = tokens_per_step
        self._on_point = on_point
        self._should_stop = should_stop
        self._save_seconds = save_seconds
        self._started = self._saved = time.monotonic()
        self._first_step = 0
        self.stopped = False
        self._validation = validation
        self.measure: Measure | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        self._started = self._saved = time.monotonic()
        self._first_step = state.global_step
        self._validate(state, others["model"])

    def _validate(self, state: TrainerState, model: nn.Module) -> None:
        validation = self._validation
        if validation is not None and self.measure is not None and validation.due(state.global_step, state.max_steps):
            loss = self.measure()
            validation.add(state.global_step, state.global_step * self._tokens_per_step, loss, model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        self._validate(state, others["model"])
        if self._validation is not None and not self._validation.patient:
            control.should_training_stop = True
        # A clock and a signal are each process's own.
        stop, save = any_of([self._should_stop(), time.monotonic() - self._saved >= self._save_seconds])
        if stop:
            self.stopped = control.should_training_stop = True
        if stop or save or state.global_step >= state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        self._saved = time.monotonic()
        assert args.output_dir is not None
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # Every process has written its part.
        shared(None)
        weights = {name: whole(weight) for name, weight in trained(others["model"]).items()}
        if process_number():
            return
        save_file(weights, folder / LEARNED_FILE)
        # The weights that were best so far are beside it.
        sync_files(Path(args.output_dir))
        (folder / COMPLETE).touch()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            seconds = max(time.monotonic() - self._started, 1e-9)
            rate = (state.global_step - self._first_step) * self._tokens_per_step / seconds
            self._on_point(state.global_step, float(logs["loss"]), rate, state.max_steps)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written completely, and not cut off by a kill."""
    return (checkpoint / COMPLETE).is_file() and (checkpoint / LEARNED_FILE).is_file()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if any."""
    found = [path for path in folder.glob("checkpoint-*") if is_whole(path)]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
