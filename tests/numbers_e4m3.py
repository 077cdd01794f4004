"""Numbers of E4M3 from their definition, and rounding to the nearest of them."""

from __future__ import annotations

import torch

NUMBERS = torch.tensor(
    sorted(
        {sign * (m / 8 + (e > 0)) * 2.0 ** (max(e, 1) - 7) for sign in (-1, 1) for e in range(16) for m in range(8)}
        - {-480.0, 480.0}
    ),
    dtype=torch.float64,
)
"""All of them: a sign, 4 bits of exponent, 3 of mantissa; the largest pattern is not a number."""


def nearest(values: torch.Tensor) -> torch.Tensor:
    """Of all numbers the nearest, in float64; between two, that with an even last bit, at an even place from 0."""
    at = torch.searchsorted(NUMBERS, values.detach().double().contiguous()).clamp(1, len(NUMBERS) - 1)
    low, high = NUMBERS[at - 1], NUMBERS[at]
    below, above = values.double() - low, high - values.double()
    even = torch.where((at - len(NUMBERS) // 2) % 2 == 0, high, low)
    return torch.where(below == above, even, torch.where(below < above, low, high))
