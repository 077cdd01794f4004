"""The context in which a mixer creates its mask, once per forward for all layers with the same mask."""

from dataclasses import dataclass

import torch


@dataclass
class MaskContext:
    """One forward of B rows and Q new tokens, after `seen` tokens in the cache.

    real_BK: bool [B, seen + Q], True where a column is a real token; None if all are.
    starts: the column of each row's first real token, or None if all are 0.
    segments_BQ: int [B or 1, Q], the index of the packed sequence that each new token belongs to; None if every row is
    one sequence.
    """

    config: object
    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor
    cache: object
    seen: int
    real_BK: torch.Tensor | None
    starts: tuple | None
    segments_BQ: torch.Tensor | None = None
    layer_idx: int = 0

    @property
    def queries(self):
        return self.inputs_embeds.shape[1]

    @property
    def device(self):
        return self.inputs_embeds.device

    def as_attention_mask(self, allowed_BQK):
        """A [B or 1, 1, Q, K] mask as the attention implementation expects it: bool for sdpa, additive otherwise."""
        allowed = allowed_BQK.unsqueeze(1)
        if self.config._attn_implementation == "sdpa":
            return allowed
        dtype = self.inputs_embeds.dtype
        zero = torch.zeros((), dtype=dtype, device=allowed.device)
        return torch.where(allowed, zero, torch.finfo(dtype).min)


def real_columns(attention_mask, columns):
    """The 2-D padding mask as bool [B, columns], or None if nothing is padded. Raises ValueError.

    As in transformers, extra columns are for future tokens and are ignored.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    if attention_mask.shape[1] < columns:
        raise ValueError(
            f"attention_mask has {attention_mask.shape[1]} columns; cached and new tokens together are {columns}"
        )
    real = attention_mask[:, :columns].bool()
    return None if bool(real.all()) else real


def first_real_columns(real_BK):
    """The column of the first real token of each row (after the last column if the row is all padding), or None."""
    if real_BK is None:
        return None
    first = real_BK.int().argmax(dim=1)
    first = torch.where(real_BK.any(dim=1), first, real_BK.shape[1])
    starts = tuple(first.tolist())
    return starts if any(starts) else None


def packed_segments(position_ids, attention_mask, cache):
    """The packed sequence's index of each token, [B or 1, Q], if positions restart within a row; else None.

    As in transformers, rows count as packed only if there is neither a padding mask nor a cache.
    """
    if attention_mask is not None or cache is not None or position_ids.shape[1] < 2:
        return None
    breaks = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if not bool(breaks.any()):
        return None
    return torch.nn.functional.pad(breaks.long().cumsum(dim=1), (1, 0))
