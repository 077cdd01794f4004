"""The Gram matrix of inputs: what each token counts, whatever the batches."""

from __future__ import annotations

import torch

from lbdsl.statistics import Observed
from lbdsl.statistics.input_gram import FIRST, InputGram


def test_the_first_token_of_a_sequence_counts_as_many() -> None:
    inputs = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    statistic, sums = InputGram(module="mlp.up_proj"), {}
    for batch in inputs.split([2, 1]):
        statistic.add(sums, "mlp.up_proj", batch, batch)
    tokens = [(FIRST if at == 0 else 1, x) for sequence in inputs.double() for at, x in enumerate(sequence)]
    expected = sum(count * x.outer(x) for count, x in tokens) / sum(count for count, _ in tokens)
    found = statistic.value(Observed(sums, 15, None, None, None))  # type: ignore[arg-type]
    assert torch.allclose(found.double(), expected, atol=1e-6)
