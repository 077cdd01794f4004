"""What `plan --target vllm` says of the cache of a model whose layers have KV heads of their own, and of a device."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from lbdsl.core.diagnostic import Diagnostic, LbdslError, Severity
from lbdsl.cost.facts import ModelFacts
from lbdsl.export.base import subject_of
from lbdsl.layer.spec import LayerSpec
from lbdsl.parts.fp8_weights import Fp8
from lbdsl.parts.int_weights import Int
from lbdsl.parts.nvfp4_weights import Nvfp4
from lbdsl.report.console import make_console
from lbdsl.report.plan import render_targets
from lbdsl.session.targets import Target, _capability, check_engines, check_target
from tests.export.test_decilm import CONFIG, subject
from tests.export_cases import base_facts
from tests.layer_changes import NONE, OWN, Layer, changed_specs, sized, swa
from tests.plan_cases import llama_facts, smollm2_facts, windowed


def said_of_the_cache(*layers: Layer) -> list[Diagnostic]:
    return [d for d in check_target(subject(*layers), "vllm").findings if d.code == "LB509"]


def groups(*layers: Layer) -> str:
    return said_of_the_cache(*layers)[0].message.split("; ")[0]


def test_kv_heads_are_named_where_they_differ() -> None:
    assert groups(OWN, NONE, OWN) == "vLLM's cache: 1 group of 2 layers (1 full)"
    assert groups(OWN, sized(1), NONE, OWN) == "vLLM's cache: 1 group of 3 layers (1 full with 2 or 1 KV heads)"


def test_long_blocks_and_padding_are_printed() -> None:
    assert groups(OWN, OWN, sized(1), sized(1), sized(1, of=swa(16))) == (
        "vLLM's cache: 5 groups of 1 layer (2 full with 2 KV heads, 2 full with 1 KV head in blocks of 32 tokens, "
        "1 windowed at 16 with 1 KV head in blocks of 32 tokens)"
    )
    padded = [OWN] * 3 + [sized(1)] * 2 + [sized(1, of=swa(16))] * 2
    assert groups(*padded) == (
        "vLLM's cache: 4 groups of 2 layers (2 full with 2 KV heads, 1 full with 1 KV head in blocks of 32 tokens, "
        "1 windowed at 16 with 1 KV head in blocks of 32 tokens, 1 of 8 places padding)"
    )


def test_the_plans_json_has_the_blocks() -> None:
    cache = check_target(subject(sized(4), sized(2), swa(16)), "vllm").cache
    assert cache is not None
    assert [group["block_tokens"] for group in cache["changed"]["groups"]] == [16, 32, 32]
    assert [group["kv_heads"] for group in cache["changed"]["groups"]] == [[4], [2], [2]]
    assert (cache["changed"]["lost"], cache["changed"]["head_bytes"]) == (0, 2 * 16 * 2)


def test_kv_heads_that_do_not_divide_the_most_are_warned_of() -> None:
    layers = [OWN, *[sized(2)] * 8, sized(2, of=swa(16))]
    facts = llama_facts(layers=len(layers), heads=6, kv_heads=3)
    config = {**CONFIG, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": len(layers)}
    found = check_target(subject_of(config, facts, changed_specs(facts, layers)), "vllm")
    said, lost, *_ = (d for d in found.findings if d.code == "LB509")
    assert "8 full with 2 KV heads, 1 windowed at 16 with 2 KV heads, 30% of it padding)" in said.message
    assert lost.severity is Severity.WARNING
    assert "30% of it is padding" in lost.message


STORED = {
    "W8A16": Int(bits=8, group=32),
    "W8A8": Int(bits=8, group="row", activations=8),
    "fp8": Fp8(),
    "W4A4": Nvfp4(activations=4),
}


@pytest.mark.parametrize(
    ("stored", "device", "can", "said"),
    [
        ("W8A16", "cpu", False, "on a CPU vLLM has no kernel for 8-bit weights with 16-bit activations"),
        ("W8A16", "H100", True, "fast kernel (Marlin)"),
        ("W8A8", "H100", True, None),
        ("W8A8", "8xB200", False, "compute capability 10 vLLM has no kernel for 8-bit integers"),
        ("fp8", "A100", True, "below compute capability 8.9"),
        ("fp8", "L40S", True, None),
        ("fp8", "cpu", True, None),
        ("W4A4", "H100", True, "below compute capability 10"),
        ("W4A4", "8xB200", True, None),
        ("W4A4", "cpu", False, "no kernel for 4-bit floats"),
    ],
)
def test_a_device_decides_what_its_kernels_are(stored: str, device: str, can: bool, said: str | None) -> None:
    """What another device lacks is not said; what this one lacks altogether refuses it."""
    config, facts = base_facts("llama")
    specs = [spec.replace(weights=dict.fromkeys(spec.linear_maps(facts), STORED[stored])) for spec in facts.layer_specs]
    asked = replace(subject_of(config, facts, specs), capability=_capability(device))
    target = check_target(asked, "vllm", device)
    assert target.can == can
    assert all(f" on {device}" in finding.message for finding in target.findings)
    assert ([d.message for d in target.findings if d.code == "LB511"] == []) is can
    if not can:
        assert target.findings[0].message == f"vLLM on {device}: it cannot compute this plan there"
    found = {d.message for answer in target.answers for d in answer.findings if d.code == "LB513"}
    assert all(said in message for message in found) if said else not found
    assert bool(found) == bool(said)


@pytest.mark.parametrize(("device", "can"), [("cpu", False), ("H100", True)])
def test_experts_of_floats_are_for_gpus(device: str, can: bool) -> None:
    config, facts = base_facts("qwen3_moe")
    specs = [spec.replace(weights=dict.fromkeys(facts.linear_maps[i], Fp8())) for i, spec in enumerate(facts.layer_specs)]
    target = check_target(replace(subject_of(config, facts, specs), capability=_capability(device)), "vllm")
    assert target.can == can
    said = [d.message for answer in target.answers for d in answer.findings if d.code == "LB513"]
    assert any("no kernel for experts of 8-bit floats" in message for message in said) != can


@pytest.mark.parametrize("name", ["vllm@24GB", "vllm@H1000", "llamacpp@cpu"])
def test_a_device_that_says_nothing_is_refused(name: str) -> None:
    with pytest.raises(LbdslError) as problem:
        check_engines([name])
    assert [d.code for d in problem.value.diagnostics] == ["LB501"]


def gain_of(specs: tuple[LayerSpec, ...], facts: ModelFacts, device: str = "H100") -> dict[str, Any]:
    sizes = {"hidden_size": facts.hidden, "vocab_size": facts.vocab, "max_position_embeddings": facts.positions}
    sizes |= {"intermediate_size": facts.intermediate, "head_dim": 64, "num_hidden_layers": 30}
    config = {**CONFIG, "num_attention_heads": 9, "num_key_value_heads": 3, **sizes}
    asked = replace(subject_of(config, facts, specs), capability=_capability(device))
    gain = check_target(asked, "vllm", device).gain
    assert gain is not None
    return dict(gain)


def test_what_a_device_gains_by_hand() -> None:
    facts = smollm2_facts()
    specs = windowed(facts, [None, 512, 512] * 10).layer_specs
    gain = gain_of(specs, facts)
    assert gain["settings"] == {"memory_bytes": 80e9, "bandwidth": 3350e9, "flops": 989e12, "context": 8192}
    token, weights = 2 * 3 * 64 * 2, 2 * 134_515_008
    cache = 30 * 8192 * token
    room = 0.9 * 80e9 - weights
    base, changed = gain["base"], gain["changed"]
    assert (base["requests"], base["cache_bytes"], base["weights"]) == (int(room / cache), cache, weights)
    # vLLM reserves two batches of 2048 tokens in each group of windows: 3 groups of 10 layers in one pool of blocks.
    blocks = room // (10 * 16 * token)
    assert changed["requests"] == int(blocks / (512 + 2 * (-(-(511 + 4096) // 16) + 1)))
    # What a step reads, or multiplies: norms are not matrices, and the head is one with the embeddings.
    matrices = 30 * (576 * 64 * (9 + 3 + 3 + 9) + 3 * 576 * 1536) + 49152 * 576
    for one, keys in ((base, 30 * 8192), (changed, 10 * 8192 + 20 * 512)):
        for name, batch in (("written_by_one", 1), ("written", one["requests"])):
            products = max(2 * matrices / 3350e9, 2 * batch * matrices / 989e12)
            attention = batch * max(keys * token / 3350e9, keys * 4 * 9 * 64 / 989e12)
            assert one[name] == pytest.approx(batch / (products + attention))
    assert base["read"] == pytest.approx(
        8192 / ((2 * 8192 * (matrices - 49152 * 576) + 2 * 49152 * 576 + 30 * 2 * 9 * 64 * 8192**2) / 989e12), rel=1e-3
    )
    assert changed["read"] > base["read"]


def test_a_model_that_does_not_fit_gains_what_has_no_ratio() -> None:
    large = llama_facts(
        layers=30, hidden=8192, heads=9, kv_heads=3, head_dim=64, intermediate=40000, vocab=49152, positions=4096
    )
    specs = tuple(spec.replace(ffn=None) for spec in large.layer_specs)
    gain = gain_of(specs, large, "L4")
    assert (gain["base"]["requests"], gain["base"]["written"], gain["settings"]["context"]) == (0, None, 4096)
    assert gain["changed"]["requests"] > 0
    lines = drawn(gain).splitlines()
    assert next(line.split() for line in lines if "that fit in its memory" in line)[-2:] == [
        "0",
        str(gain["changed"]["requests"]),
    ]
    assert "none" in next(line for line in lines if "written by one" in line)


def test_quantized_products_are_bounded_by_their_bytes() -> None:
    facts = smollm2_facts()
    specs = tuple(
        spec.replace(weights=dict.fromkeys(facts.linear_maps[layer], Fp8())) for layer, spec in enumerate(facts.layer_specs)
    )
    gain = gain_of(specs, facts)
    assert gain["changed"]["weights"] < 0.65 * gain["base"]["weights"]
    assert gain["changed"]["read"] > 1.5 * gain["base"]["read"]


def test_the_gain_on_a_device_is_one_table() -> None:
    facts = smollm2_facts()
    gain = gain_of((facts.layer_specs[0], *(spec.replace(mixer=None) for spec in facts.layer_specs[1:])), facts)
    text = drawn(gain)
    rows = {line[1:40].strip(): line[40:].split() for line in text.splitlines()[1:5]}
    assert list(rows) == [
        "requests of 8Ki that fit in its memory",
        "tokens a second written by one",
        "tokens a second written by all that fit",
        "tokens a second read, of prompts of 8Ki",
    ]
    requests = [gain[of]["requests"] for of in ("base", "changed")]
    assert rows["requests of 8Ki that fit in its memory"] == [
        *(f"{n:,}" for n in requests),
        f"x{requests[1] / requests[0]:.2f}",
    ]
    assert max(map(len, text.splitlines())) <= 80
    assert "3.35 TB/s and 989 TFLOP/s" in " ".join(text.split())


def drawn(gain: dict[str, Any]) -> str:
    written = io.StringIO()
    render_targets([Target("vllm", (), (), None, "H100", gain)], make_console(written, 80))
    return written.getvalue().strip("\n")


@pytest.mark.parametrize("device", ["cpu", None])
def test_where_no_data_sheet_is_known_nothing_is_gained(device: str | None) -> None:
    assert check_target(subject(OWN, swa(16)), "vllm", device).gain is None
