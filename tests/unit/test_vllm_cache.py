"""vLLM's cache by formula: groups, padding, and capacities that vLLM 0.32 itself logged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbdsl.export.vllm_cache import CacheLayout, Serving, cache_layout, layout_of_layers
from lbdsl.layer.spec import LayerSpec
from tests.layer_changes import GONE, NONE, OWN, changed_specs, swa
from tests.plan_cases import llama_facts

SMOLLM2_LAYER = 768  # bytes a token: 2 x 3 heads x 64 x 2
CPU = Serving(max_model_len=2048, block_size=128, batched_tokens=4096, batches=1)


def layout(full: int, windowed: int, window: int = 256) -> CacheLayout:
    return cache_layout({i: None if i < full else window for i in range(full + windowed)}, SMOLLM2_LAYER)


@pytest.mark.parametrize(("full", "windowed", "logged"), [(30, 0, 46592), (6, 16, 55632)])
def test_capacities_that_vllm_logged_for_smollm2(full: int, windowed: int, logged: int) -> None:
    assert layout(full, windowed).capacity(CPU) == logged


def test_a_capacity_that_vllm_logged_for_batches_of_512() -> None:
    assert layout(6, 16).capacity(Serving(2048, 128, 512, batches=1)) == 100739


@pytest.mark.parametrize(
    ("full", "windowed", "size", "groups", "padding"),
    [
        (10, 20, 10, 3, 0),
        (1, 23, 1, 24, 0),
        (6, 16, 6, 4, 2),
        (12, 13, 13, 2, 1),
        (2, 3, 2, 3, 1),
        (5, 9, 5, 3, 1),
        (5, 7, 7, 2, 2),
        (0, 9, 9, 1, 0),
        (9, 0, 9, 1, 0),
    ],
)
def test_groups(full: int, windowed: int, size: int, groups: int, padding: int) -> None:
    found = layout(full, windowed)
    assert (found.size, len(found.groups), found.padding) == (size, groups, padding)


def test_two_windows_are_two_kinds() -> None:
    found = cache_layout({0: 8, 1: None, 2: 16, 3: 8}, 100)
    assert [(group.window, group.layers) for group in found.groups] == [(8, (0,)), (8, (3,)), (None, (1,)), (16, (2,))]


@given(st.lists(st.sampled_from([None, 16, 64, 1000]), min_size=1, max_size=40), st.integers(1, 4000), st.booleans())
def test_every_layer_has_one_place(kinds: list[int | None], max_model_len: int, cpu: bool) -> None:
    found = cache_layout(dict(enumerate(kinds)), SMOLLM2_LAYER)
    assert sorted(layer for group in found.groups for layer in group.layers) == list(range(len(kinds)))
    assert all(1 <= len(group.layers) <= found.size for group in found.groups)
    assert max(len(group.layers) for group in found.groups) == found.size
    assert all(kinds[layer] == group.window for group in found.groups for layer in group.layers)
    serving = Serving(max_model_len, block_size=128 if cpu else 16)
    # A pool of exactly the bytes that are held holds at least the sequence.
    held = found.held_bytes(max_model_len, serving)
    assert held >= sum(min(window or max_model_len, max_model_len) for window in kinds) * SMOLLM2_LAYER


def test_smaller_batches_reserve_less_for_windows() -> None:
    sizes = [layout(6, 16).capacity(Serving(8192, 16, batched)) for batched in (512, 2048, 8192)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2.5 * layout(30, 0).capacity(Serving(8192, 16))


def test_layers_of_specifications() -> None:
    facts = llama_facts(dtype="bfloat16")
    specs = [LayerSpec.model_validate(spec) for spec in changed_specs(facts, [OWN, NONE, swa(5), GONE])]
    found = layout_of_layers(specs, facts)
    assert found == cache_layout({0: None, 2: 5}, 2 * 2 * 16 * 2)
    assert cache_layout({}, 100).capacity(CPU) == 0
