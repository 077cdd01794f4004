"""Values with their errors."""

from __future__ import annotations

import pytest

from lbdsl.core.measurement import Measurement, added
from lbdsl.core.units import Unit


def test_a_sum_of_metrics_adds_their_errors_in_quadrature() -> None:
    found = added([(1.0, Measurement(0.3, 0.03, Unit.NATS, 100, 8)), (0.2, Measurement(-0.5, 0.2, Unit.NATS, 40, 4))])
    assert (found.value, found.stderr) == (pytest.approx(0.2), pytest.approx(0.05))
    assert (found.tokens, found.sequences, found.unit) == (140, 4, Unit.NATS)
