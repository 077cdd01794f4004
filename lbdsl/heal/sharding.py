"""Models that the processes of a run hold a share of each, by torch's FSDP2 (`fully_shard`).

accelerate's own FSDP is not used: it starts on GPUs only, and it has to see both models that healing needs.
Source: Zhao et al. 2023 (arXiv 2304.11277).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lbdsl.heal.objectives import Objective


def share_teacher(model: Any, device: torch.device) -> None:
    """Keep this process's share of each layer of the base; its embeddings, head and final norm stay whole."""
    _share_layers(model, device)
    _move_whole(model, device)


class Shared:
    """An objective whose student is shared: each process keeps its share of each layer, and of what else is trained."""

    def __init__(self, objective: Objective, device: torch.device):
        from torch.distributed.fsdp import fully_shard

        self._objective = objective
        self._hollow = _hollow(objective)
        student = objective.causal_lm
        _share_layers(student, device)
        # Embeddings and head are not trained, and the loss reads the head without calling it.
        ends = (student.get_input_embeddings(), student.get_output_embeddings())
        ignored = {p for module in ends for p in module.parameters()}
        _move_whole(student, device)
        fully_shard(objective, mesh=_mesh(device), reshard_after_forward=True, ignored_params=ignored)
        # The Trainer then neither wraps nor moves it.
        objective.is_distributed_loading_by_transformers = True  # type: ignore[assignment]

    def whole(self) -> Objective:
        """The objective with all weights in each process's own memory; every process must ask for it."""
        found: dict[int, nn.Parameter] = {}
        own = dict(self._objective.named_parameters(remove_duplicate=False))
        for name, place in self._hollow.named_parameters(remove_duplicate=False):
            if id(place) not in found:
                found[id(place)] = nn.Parameter(whole(own[name]), requires_grad=place.requires_grad)
        for module in self._hollow.modules():
            for key, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[key] = found[id(weight)]
        return self._hollow


@torch.no_grad()
def whole(weight: Tensor) -> Tensor:
    """A tensor of which each process may have a share, in the machine's memory; every process must ask for it."""
    from torch.distributed.tensor import DTensor

    return weight.full_tensor().cpu() if isinstance(weight, DTensor) else weight.detach()


def _mesh(device: torch.device) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


def _share_layers(model: Any, device: torch.device) -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = _mesh(device)
    for layer in model.model.layers:
        if any(True for _ in layer.parameters()):
            layer.to(device)
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)


def _move_whole(model: Any, device: torch.device) -> None:
    """Move what is not shared, and all buffers, to the device. Copies even there: a slice of the checkpoint's mapped file
    would keep all of it in memory."""
    from torch.distributed.tensor import DTensor

    for weight in model.parameters():
        if not isinstance(weight, DTensor):
            weight.data = weight.data.to(device, copy=True)
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)


def _hollow(objective: Objective) -> Objective:
    """A copy without the memory of its weights; the teacher is the same."""
    known: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        for weight in objective.parameters()
    }
    known[id(objective._teacher)] = objective._teacher
    return copy.deepcopy(objective, known)
