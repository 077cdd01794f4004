"""vLLM's cache by formula: groups, padding, and capacities that vLLM 0.32 itself logged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbdsl.export.vllm_cache import GIB, CacheKind, CacheLayout, Serving, cache_layout, layout_of_layers
from lbdsl.layer.spec import LayerSpec
from tests.layer_changes import NONE, OWN, Layer, changed_specs, sized, swa
from tests.plan_cases import llama_facts

SMOLLM2_HEAD = 256  # bytes a token: 2 x 64 x 2; a layer has 3
CPU = Serving(max_model_len=2048, block_size=128, batched_tokens=4096, batches=1)


def layout(full: int, windowed: int, window: int = 256) -> CacheLayout:
    return cache_layout(
        ({i: CacheKind(None if i < full else window, 3) for i in range(full + windowed)}).items(), SMOLLM2_HEAD
    )


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
    found = cache_layout(
        ({0: CacheKind(8, 1), 1: CacheKind(None, 1), 2: CacheKind(16, 1), 3: CacheKind(8, 1)}).items(), 100
    )
    assert [(group.window, group.layers) for group in found.groups] == [(8, (0,)), (8, (3,)), (None, (1,)), (16, (2,))]


KINDS = st.builds(CacheKind, st.sampled_from([None, 16, 64, 1000]), st.sampled_from([1, 2, 3, 8]))


@given(st.lists(KINDS, min_size=1, max_size=40), st.integers(1, 4000), st.booleans())
def test_every_layer_has_one_place(kinds: list[CacheKind], max_model_len: int, cpu: bool) -> None:
    found = cache_layout(enumerate(kinds), SMOLLM2_HEAD)
    assert sorted(layer for group in found.groups for layer in group.layers) == list(range(len(kinds)))
    assert all(1 <= len(group.layers) <= found.size for group in found.groups)
    assert max(len(group.layers) for group in found.groups) == found.size
    for group in found.groups:
        assert [kinds[layer] for layer in group.layers] == [CacheKind(group.window, heads) for heads in group.kv_heads]
    assert 0 <= found.lost < 1
    serving = Serving(max_model_len, block_size=128 if cpu else 16)
    # A pool of exactly the bytes that are held holds at least the sequence.
    held = found.held_bytes(max_model_len, serving)
    seen = sum(min(window or max_model_len, max_model_len) * heads for window, heads in kinds)
    assert held >= seen * SMOLLM2_HEAD


def test_layers_of_one_window_are_one_group_whatever_their_kv_heads() -> None:
    """Nothing is padded, so the capacity is that of the bytes."""
    for window in (None, 256):
        found = cache_layout({i: CacheKind(window, 1 if i % 3 else 3) for i in range(12)}.items(), SMOLLM2_HEAD)
        assert (len(found.groups), found.size, found.padding, found.lost) == (1, 12, 0, 0)
        assert found.groups[0].kv_heads == (3, 1, 1) * 4
        assert found.block_bytes(CPU) == (4 * 3 + 8) * 128 * SMOLLM2_HEAD


def test_beside_windows_thin_layers_have_longer_blocks() -> None:
    """SmolLM2 on a CPU, two layers of each kind: 1 of 3 KV heads makes blocks of 384 tokens instead of 128."""
    kinds = (CacheKind(None, 3), CacheKind(None, 1), CacheKind(256, 3), CacheKind(256, 1))
    found = cache_layout({i: kinds[i % 4] for i in range(8)}.items(), SMOLLM2_HEAD)
    assert [found.block_tokens(group, CPU) for group in found.groups] == [128, 384, 128, 384]
    assert (found.size, found.padding, found.lost) == (2, 0, 0)
    assert found.block_bytes(CPU) == 2 * 3 * 128 * SMOLLM2_HEAD
    # 16 blocks of 128 tokens and 6 of 384 hold 2,048; windows keep all that is in flight, and one block more.
    assert found.capacity(CPU) == int(GIB // found.block_bytes(CPU) / (16 + 6 + 17 + 7) * 2048)


def test_kv_heads_that_do_not_divide_the_most_lose_the_rest_of_their_pages() -> None:
    found = cache_layout({0: CacheKind(None, 3), 1: CacheKind(64, 2)}.items(), SMOLLM2_HEAD)
    assert [found.block_tokens(group, CPU) for group in found.groups] == [128, 128]
    assert (found.padding, found.lost) == (0, pytest.approx(1 / 6))


def test_smaller_batches_reserve_less_for_windows() -> None:
    sizes = [layout(6, 16).capacity(Serving(8192, 16, batched)) for batched in (512, 2048, 8192)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2.5 * layout(30, 0).capacity(Serving(8192, 16))


def test_layers_of_specifications() -> None:
    facts = llama_facts(dtype="bfloat16")
    specs = [LayerSpec.model_validate(spec) for spec in changed_specs(facts, [OWN, NONE, swa(5), sized(1)])]
    found = layout_of_layers(specs, facts)
    assert found == cache_layout({0: CacheKind(None, 2), 2: CacheKind(5, 2), 3: CacheKind(None, 1)}.items(), 2 * 16 * 2)
    assert cache_layout({}.items(), 100).capacity(CPU) == 0


@pytest.mark.parametrize(
    ("heads", "full", "expected"),
    [
        (3, [1, 0, 2, None], [[(None, 1), (5, 1), (5, 1)], [(5, 3)], [(None, 1), (None, 1), (5, 1)], [(None, 3)]]),
        (8, [3, 6, 4, 0], [[(None, 1)] * 3 + [(5, 1)] * 5, [(None, 2)] * 3 + [(5, 2)], [(None, 4), (5, 4)], [(5, 8)]]),
        (3, [1, 1, 2, 1], [[(None, 1), (5, 2)], [(None, 1), (5, 2)], [(None, 2), (5, 1)], [(None, 1), (5, 2)]]),
    ],
)
def test_full_heads_are_taken_apart_so_that_no_page_is_wasted(
    heads: int, full: list[int | None], expected: list[list[CacheKind]]
) -> None:
    facts = llama_facts(heads=24, kv_heads=heads)
    layers = [OWN if some is None else Layer(5, full_heads=some) for some in full]
    specs = [LayerSpec.model_validate(spec) for spec in changed_specs(facts, layers)]
    found = layout_of_layers(specs, facts)
    modules = [
        (layer, (group.window, n)) for group in found.groups for layer, n in zip(group.layers, group.kv_heads, strict=True)
    ]
    assert found.lost == found.padding / found.places
    for index, kinds in enumerate(expected):
        assert sorted((kind for layer, kind in modules if layer == index), key=str) == sorted(kinds, key=str)
