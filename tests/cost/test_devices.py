"""Devices by their names."""

from __future__ import annotations

import pytest

from lbdsl.cost.devices import devices_of


@pytest.mark.parametrize(
    ("kind", "name", "same"),
    [
        ("A10", "NVIDIA A10", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("L4", "NVIDIA L40S", False),
        ("L40S", "NVIDIA L40S", True),
        ("A100-40GB", "NVIDIA A100-SXM4-40GB", True),
        ("A100", "NVIDIA A100-SXM4-40GB", False),
        ("8xA100", "NVIDIA A100 80GB PCIe", True),
        ("RTX4090", "NVIDIA GeForce RTX 4090", True),
        ("2xH100", "NVIDIA H100 80GB HBM3", True),
        ("H100", "NVIDIA H200", False),
        ("cpu", "NVIDIA H200", False),
    ],
)
def test_what_torch_calls_them(kind: str, name: str, same: bool) -> None:
    assert devices_of(kind).is_called(name, "cuda") is same


def test_a_cpu_of_any_name() -> None:
    assert devices_of("2xcpu").is_called("AMD EPYC", "cpu")
    assert not devices_of("H100").is_called("AMD EPYC", "cpu")
