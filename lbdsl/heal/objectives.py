"""The modules that are trained: the changed model, with the loss of a stage as its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lbdsl.heal.losses import chunked_kl, hidden_loss, layer_loss
from lbdsl.heal.teacher import Teacher, TeacherStates


class Objective(nn.Module):
    """`student` may be wrapped by PEFT. `forward(input_ids [B, N], rows [B])` is the mean loss over a batch; `rows` are the
    numbers of its sequences. `positions` [B, N] restart at each document that does not see those before it, and the loss is
    over the tokens that `counts` [B, N] names, or all."""

    def __init__(self, student: Any, teacher: Teacher):
        super().__init__()
        self.student = student
        # A list keeps a teacher out of the module tree, so that it is neither wrapped nor saved.
        self._teacher = [teacher]

    @property
    def causal_lm(self) -> Any:
        return self.student.get_base_model() if hasattr(self.student, "get_base_model") else self.student

    def states(
        self, ids_BN: Tensor, rows_B: Tensor, first: int, positions_BN: Tensor | None, *, layers: bool
    ) -> TeacherStates:
        with torch.autocast(ids_BN.device.type, enabled=False):
            return self._teacher[0].states(ids_BN, rows_B, first, positions_BN, layers=layers)


class Distill(Objective):
    """Learning to predict what the base predicts. Source: Hinton et al. 2015 (arXiv 1503.02531)."""

    def __init__(self, student: Any, teacher: Teacher, first: int, kl_weight: float, hidden_weight: float):
        """`first` is the first layer that differs from the base's: those before it run once for both models."""
        super().__init__(student, teacher)
        self._first = first
        self._kl_weight = kl_weight
        self._hidden_weight = hidden_weight

    def forward(
        self, input_ids: Tensor, rows: Tensor, positions: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        taught = self.states(input_ids, rows, self._first, positions, layers=self._hidden_weight > 0)
        model, body = self.causal_lm, self.causal_lm.model
        hidden_BND = body.embed(input_ids) if taught.before_BND is None else taught.before_BND
        inputs = body.prepare(hidden_BND, position_ids=positions)
        if taught.before_BND is None:
            with torch.no_grad():
                for index in range(self._first):
                    hidden_BND = body.run_layer(body.layers[index], index, hidden_BND, inputs)
        learned = []
        for index in range(self._first, len(body.layers)):
            hidden_BND = body.run_layer(body.layers[index], index, hidden_BND, inputs)
            learned.append(hidden_BND)
        final_BND = body.norm(hidden_BND)
        with torch.autocast(input_ids.device.type, enabled=False):
            # Logits are linear in the hidden states, so dividing the hidden states is equivalent.
            learned_ND, taught_ND = (
                _of(states_BND, counts) / (model.logits_divisor or 1.0) for states_BND in (final_BND, taught.final_BND)
            )
            head = self._teacher[0].head
            loss = self._kl_weight * chunked_kl(learned_ND, model.lm_head.weight, taught_ND, head, cap=model.logit_softcap)
            if self._hidden_weight > 0:
                states = ([_of(one, counts) for one in those] for those in (learned, taught.layers))
                loss = loss + self._hidden_weight * hidden_loss(*states)
            return loss


class Match(Objective):
    """Learning, layer by layer, to give what the base's layers give on the base's hidden states."""

    def __init__(self, student: Any, teacher: Teacher, parts: tuple[range, ...]):
        """`parts` are the layers that learn together, see `segments`."""
        super().__init__(student, teacher)
        self._parts = parts

    def forward(
        self, input_ids: Tensor, rows: Tensor, positions: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        first = self._parts[0].start
        taught = self.states(input_ids, rows, first, positions, layers=True)
        assert taught.before_BND is not None, "a cached teacher has no layers"
        states = (taught.before_BND, *taught.layers)
        body = self.causal_lm.model
        inputs = body.prepare(states[0], position_ids=positions)
        losses = []
        for part in self._parts:
            before_BND, after_BND = states[part.start - first], states[part.stop - first]
            hidden_BND = before_BND
            for index in part:
                hidden_BND = body.run_layer(body.layers[index], index, hidden_BND, inputs)
            losses.append(layer_loss(*(_of(states_BND, counts) for states_BND in (hidden_BND, before_BND, after_BND))))
        return torch.stack(losses).mean()


def _of(states_BND: Tensor, counts_BN: Tensor | None) -> Tensor:
    """The states [n, D] of the n tokens that count."""
    return states_BND.flatten(0, -2) if counts_BN is None else states_BND[counts_BN]
