"""What exporters say of quantized weights: what vLLM computes as one, what it has no kernel for, what is written."""

from __future__ import annotations

import re
import shlex

import pytest

from lbdsl.artifact.quantization import quantization_config
from lbdsl.export import exporters
from lbdsl.export.base import subject_of
from lbdsl.parts.int_weights import Int
from tests.export_cases import GPT_OSS, base_facts

CONFIG, FACTS = base_facts("llama")
W4, W8A8, W8 = Int(bits=4, group=32), Int(bits=8, group="row", activations=8), Int(bits=8, group=32)
ATTENTION = [f"self_attn.{x}_proj" for x in "qkvo"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def found(kind: str, weights: dict[str, Int], layer: int = 1) -> list[tuple[str, str]]:
    specs = list(FACTS.layer_specs)
    specs[layer] = specs[layer].replace(weights=weights)
    return [(d.code, d.message) for d in exporters()[kind].check(subject_of(CONFIG, FACTS, specs)) if d.code != "LB510"]


def errors(kind: str, weights: dict[str, Int]) -> list[tuple[str, str]]:
    return [row for row in found(kind, weights) if row[0] != "LB513"]


@pytest.mark.parametrize("kind", ["decilm", "vllm"])
def test_what_vllm_computes_as_one_is_quantized_alike(kind: str) -> None:
    assert errors(kind, dict.fromkeys(ATTENTION, W8A8) | dict.fromkeys(MLP, W4)) == []
    (code, message), *others = errors(kind, {"self_attn.k_proj": W4, "self_attn.v_proj": W4})
    assert (code, others) == ("LB512", [])
    assert "`self_attn.k_proj`, `self_attn.v_proj` in layer 1" in message
    assert [code for code, _ in errors(kind, {"mlp.gate_proj": W4, "mlp.up_proj": W8A8})] == ["LB512"]
    # How integers were found makes no difference.
    assert errors(kind, {"mlp.gate_proj": W4, "mlp.up_proj": W4.replace(method="gptq")}) == []


@pytest.mark.parametrize("kind", ["decilm", "vllm"])
def test_a_kernel_that_there_is_not_on_every_machine(kind: str) -> None:
    def said(part: Int, modules: list[str] = MLP) -> list[str]:
        rows = found(kind, dict.fromkeys(modules, part))
        assert {code for code, _ in rows} == {"LB513"}
        return [message.split(" (")[0] for _, message in rows]

    marlin = "on a GPU vLLM's fast kernel"
    assert said(W8) == ["on a CPU vLLM has no kernel for 8-bit weights with 16-bit activations", marlin]
    assert said(W8A8) == ["on GPUs of compute capability 10 vLLM has no kernel for 8-bit integers"]
    assert said(W4) == [marlin]
    groups = [message for _, message in found(kind, {"mlp.down_proj": W4.replace(group=96)}) if "groups of 32" in message]
    assert len(groups) == 1


@pytest.mark.parametrize(("kind", "notes"), [("native", []), ("gguf", ["LB526"])])
def test_other_engines_take_each_module_as_it_is(kind: str, notes: list[str]) -> None:
    said = found(kind, {"self_attn.k_proj": W4, "mlp.up_proj": W8, "mlp.gate_proj": W8A8})
    assert [code for code, _ in said] == notes


def test_the_command_for_k_quants_leaves_experts_with_biases() -> None:
    config, facts = base_facts("gpt_oss", **GPT_OSS)
    specs = [spec.replace(weights={"self_attn.q_proj": W8}) for spec in facts.layer_specs]
    (said,) = [d for d in exporters()["gguf"].check(subject_of(config, facts, specs)) if d.code == "LB526"]
    for name in ("gate", "up", "down"):
        assert f"'blk\\.(0|1|2|3)\\.ffn_{name}_exps\\.=f16'" in said.help[-1]
    assert "bias" not in said.help[-1]


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_the_command_for_k_quants_has_the_bits_of_every_matrix(family: str) -> None:
    """As llama-quantize reads it: each pattern is searched in a tensor's name, and the last that is found wins."""
    config, facts = base_facts(family)
    layers = range(len(facts.layer_specs))
    maps = [facts.layer_specs[layer].linear_maps(facts) for layer in layers]
    wanted = {layer: {name: (W4, W8)[(layer + at) % 2] for at, name in enumerate(maps[layer]) if at} for layer in layers}
    wanted[0] = {}
    specs = [spec.replace(weights=wanted[layer]) for layer, spec in enumerate(facts.layer_specs)]
    (said,) = [d for d in exporters()["gguf"].check(subject_of(config, facts, specs)) if d.code == "LB526"]
    words = shlex.split(said.help[-1])
    assert words[0] == "llama-quantize"
    rules = [words[at + 1].rsplit("=", 1) for at, word in enumerate(words) if word == "--tensor-type"]
    assert words[-1] == "Q8_0"

    def kind(layer: int, tensor: str) -> str:
        return next((k for pattern, k in rules[::-1] if re.search(pattern, f"blk.{layer}.{tensor}.weight")), "q8_0")

    names = {row.name.removesuffix(".weight"): row.gguf.removesuffix(".weight") for row in facts.rows("gated_mlp")}
    names["self_attn.o_proj"] = "attn_output"
    types = {None: "f16", 4: "q4_k", 8: "q8_0"}
    pairs = [(layer, module) for layer in layers for module in names if module in maps[layer]]
    assert len(pairs) >= 3 * len(layers)
    for layer, module in pairs:
        stored = wanted[layer].get(module)
        tensors = ("ffn_gate", "ffn_up") if names[module] == "ffn_gate_up" else (names[module],)
        for tensor in tensors:
            assert kind(layer, tensor) == types[stored and stored.bits]


def test_no_command_for_k_quants_without_quantize() -> None:
    assert found("gguf", {}) == []


def test_every_module_is_named_once_and_in_order() -> None:
    specs = list(FACTS.layer_specs)
    specs[1] = specs[1].replace(mixer=None, weights=dict.fromkeys(MLP, W4))
    specs[2] = specs[2].replace(weights=dict.fromkeys(ATTENTION, W8A8) | {"mlp.up_proj": W4.replace(method="gptq")})
    maps = [spec.linear_maps(FACTS) for spec in specs]
    entry = quantization_config(specs, FACTS)
    assert entry is not None
    assert entry["format"] == "mixed-precision"
    groups = list(entry["config_groups"].values())
    assert [(g["weights"]["num_bits"], g["format"]) for g in groups] == [(4, "pack-quantized"), (8, "int-quantized")]
    named = [*entry["ignore"], *(name for group in groups for name in group["targets"])]
    assert (
        sorted(named)
        == sorted({*named})
        == sorted([*(f"model.layers.{i}.{m}" for i, of in enumerate(maps) for m in of), "lm_head"])
    )
    assert all(group["targets"] == sorted(group["targets"]) for group in groups)
    assert quantization_config(FACTS.layer_specs, FACTS) is None


def test_one_format_is_said_once() -> None:
    specs = [spec.replace(weights=dict.fromkeys([*ATTENTION, *MLP], W4)) for spec in FACTS.layer_specs]
    entry = quantization_config(specs, FACTS)
    assert entry is not None
    assert entry["format"] == "pack-quantized"
    assert entry["ignore"] == ["lm_head"]


def test_it_is_a_configuration_of_compressed_tensors() -> None:
    from compressed_tensors import quantization

    specs = [spec.replace(weights=dict.fromkeys(ATTENTION, W8A8) | dict.fromkeys(MLP, W4)) for spec in FACTS.layer_specs]
    entry = quantization_config(specs, FACTS)
    assert entry is not None
    read = quantization.QuantizationConfig.model_validate(entry)
    assert {str(scheme.weights.strategy) for scheme in read.config_groups.values()} == {"channel", "group"}
