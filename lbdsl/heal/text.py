"""What healing has to know of its text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.data.blocks import TokenBlocks
from lbdsl.recipe.schema_blocks import HealSettings


@dataclass(frozen=True, eq=False)
class HealingText:
    """Token ids [S, N]; positions that restart at each document, None if documents are joined; and the tokens whose
    successor is learned to predict, None for all."""

    ids_SN: Tensor
    positions_SN: Tensor | None = None
    counts_SN: Tensor | None = None

    @classmethod
    def of(cls, blocks: TokenBlocks, settings: HealSettings) -> HealingText:
        """Raises LB454 and LB455 if only an assistant's words count, and they are not known or there are none."""
        positions_SN = counts_SN = None
        if settings.documents == "apart" and blocks.starts is not None:
            positions_SN = positions_of(blocks.starts)
        if settings.loss_on == "assistant":
            if blocks.turns_unknown:
                raise fail(
                    "LB454",
                    f"the model's chat template does not let the turns of a chat of {blocks.data} be told apart",
                    help="write `loss_on = all` in the heal block",
                )
            if blocks.answers is None or not bool(blocks.answers[:, 1:].any()):
                raise no_assistant(blocks.data)
            counts_SN = torch.zeros_like(blocks.answers)
            counts_SN[:, :-1] = blocks.answers[:, 1:]
        return cls(blocks.ids, positions_SN, counts_SN)


def no_assistant(data: str) -> LbdslError:
    help = ("write `loss_on = all`", "give chats that an assistant answers in: records with `messages`")
    return fail("LB455", f"{data} has no words of an assistant to learn from", help=help)


def positions_of(starts_SN: Tensor) -> Tensor:
    """The place of each token in its document, from where that begins in the sequence on: int64 [S, N]."""
    places_N = torch.arange(starts_SN.shape[1])
    return places_N - torch.where(starts_SN, places_N, 0).cummax(dim=1).values
