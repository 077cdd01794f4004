"""What `plan --target vllm` says of the cache of a model whose layers have KV heads of their own."""

from __future__ import annotations

from lbdsl.core.diagnostic import Diagnostic, Severity
from lbdsl.export.base import subject_of
from lbdsl.session.targets import check_target
from tests.export.test_decilm import CONFIG, subject
from tests.layer_changes import NONE, OWN, Layer, changed_specs, sized, swa
from tests.plan_cases import llama_facts


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
