"""What is made up in a specification (a part kind, a field, a version) is refused by name wherever one is read: by
`lbdsl` itself, by every exporter, by vLLM's plug-in, by the runtime, and by the runtime that lies beside the weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.cost.facts import ModelFacts
from lbdsl.export import Subject, exporters
from lbdsl.export.base import subject_of
from lbdsl.model.layout import artifact_specs
from lbdsl.parts import Part, Slot
from lbdsl.parts.attention import Attention, Window
from lbdsl.parts.base import Storage
from lbdsl.parts.gated_mlp import GatedMLP
from tests.clean_process import CleanProcess
from tests.plan_cases import llama_facts

FACTS = llama_facts(layers=3, hidden=32, heads=4, kv_heads=2, head_dim=8, intermediate=48, vocab=101, positions=2048)
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
Change = Callable[[dict[str, Any]], object]


def windowed(mixer: dict[str, Any], **more: Any) -> None:
    mixer["window"] = {"size": 8, "sink_tokens": 0, **more}


def in_layer(change: Change) -> Change:
    return lambda entry: change(entry["layers"][1])


# What is made up, and how an entry gets it.
MADE_UP: dict[str, tuple[str, Change]] = {
    "mixer": ("telepathy", in_layer(lambda layer: layer["mixer"].update(kind="telepathy"))),
    "MLP": ("telepathy", in_layer(lambda layer: layer["ffn"].update(kind="telepathy"))),
    "storage": ("telepathy", in_layer(lambda layer: layer["weights"].update({"mlp.up_proj": {"kind": "telepathy"}}))),
    "field of a mixer": ("charm", in_layer(lambda layer: layer["mixer"].update(charm=1))),
    "field of an MLP": ("charm", in_layer(lambda layer: layer["ffn"].update(charm=1))),
    "field of a window": ("charm", in_layer(lambda layer: windowed(layer["mixer"], charm=1))),
    "field of a layer": ("charm", in_layer(lambda layer: layer.update(charm=1))),
    "version": ("77", lambda entry: entry.update(version=77)),
}


def entry_with(what: str) -> tuple[dict[str, Any], str]:
    """The `lbdsl` entry of config.json with something made up, and its name."""
    layers = [copy.deepcopy(spec.to_json()) for spec in FACTS.layer_specs]
    entry = {"version": 2, "base_model_type": "llama", "layers": layers}
    name, change = MADE_UP[what]
    change(entry)
    return entry, name


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(LbdslError) as caught:
        action()
    (found,) = caught.value.diagnostics
    assert found.code in ("LB402", "LB403")
    assert found.help
    assert found.exit_code == 6
    return found.message


@pytest.mark.parametrize("what", MADE_UP)
def test_reading_refuses_it(what: str) -> None:
    entry, name = entry_with(what)
    assert name in refused(lambda: artifact_specs(entry, 3))
    if what != "version":
        assert name in refused(lambda: subject_of(CONFIG, FACTS, entry["layers"]))


class Telepathy(Part):
    """A mixer that nobody knows."""

    slot: ClassVar[Slot] = Slot.MIXER
    kind: Literal["telepathy"] = "telepathy"


class TelepathicMLP(Telepathy):
    slot: ClassVar[Slot] = Slot.FFN


class TelepathicStorage(Storage):
    kind: Literal["telepathy"] = "telepathy"


class CharmingAttention(Attention):
    charm: int = 1


class CharmingMLP(GatedMLP):
    charm: int = 1


class CharmingWindow(Window):
    charm: int = 1


def values(facts: ModelFacts, charm: int = 2) -> dict[str, tuple[str, dict[str, Any]]]:
    """As MADE_UP, as values that a plug-in could bring: the name, and the fields of a LayerSpec."""
    mixer, ffn = facts.layer_specs[1].mixer, facts.layer_specs[1].ffn
    assert isinstance(mixer, Attention)
    assert isinstance(ffn, GatedMLP)
    sizes = {"heads": mixer.heads, "kv_heads": mixer.kv_heads, "head_dim": mixer.head_dim}
    return {
        "mixer": ("telepathy", {"mixer": Telepathy()}),
        "MLP": ("telepathy", {"ffn": TelepathicMLP()}),
        "storage": ("telepathy", {"weights": {"mlp.up_proj": TelepathicStorage()}}),
        "field of a mixer": ("charm", {"mixer": CharmingAttention(**sizes, charm=charm)}),
        "field of an MLP": ("charm", {"ffn": CharmingMLP(width=ffn.width, charm=charm)}),
        "field of a window": ("charm", {"mixer": mixer.replace(window=CharmingWindow(size=8, charm=charm))}),
    }


@pytest.mark.parametrize("what", values(FACTS))
@pytest.mark.parametrize("kind", exporters())
def test_every_exporter_refuses_it(kind: str, what: str) -> None:
    name, fields = values(FACTS)[what]
    specs = list(FACTS.layer_specs)
    specs[1] = specs[1].replace(**fields)
    errors = [d for d in exporters()[kind].check(Subject(CONFIG, FACTS, tuple(specs))) if d.is_error]
    assert any(name in d.message and "layer 1" in d.message for d in errors), errors
    assert all(d.help and d.exit_code == 6 for d in errors)
    assert not [d for d in exporters()[kind].check(Subject(CONFIG, FACTS, FACTS.layer_specs)) if d.is_error]


@pytest.mark.parametrize("what", ["field of a mixer", "field of an MLP"])
@pytest.mark.parametrize("kind", exporters())
def test_a_field_at_its_default_is_no_obstacle(kind: str, what: str) -> None:
    specs = list(FACTS.layer_specs)
    specs[1] = specs[1].replace(**values(FACTS, charm=1)[what][1])
    assert not [d for d in exporters()[kind].check(Subject(CONFIG, FACTS, tuple(specs))) if d.is_error]


@pytest.mark.torch
@pytest.mark.parametrize("what", MADE_UP)
def test_the_plugin_of_vllm_refuses_it(what: str) -> None:
    from transformers import AutoConfig

    from lbdsl.vllm.layers import checked

    entry, name = entry_with(what)
    with pytest.raises(ValueError, match=name):
        checked(entry, "llama", AutoConfig.for_model(**CONFIG))


@pytest.mark.torch
@pytest.mark.parametrize("what", MADE_UP)
def test_the_runtime_refuses_it(what: str) -> None:
    from lbdsl.model.runtime import hybrid_classes

    classes = hybrid_classes("llama")
    fields = {key: value for key, value in CONFIG.items() if key not in ("model_type", "architectures")}
    entry, name = entry_with(what)
    with pytest.raises(ValueError, match=name):
        classes.causal_lm(classes.config(**fields, lbdsl=entry))
    if what != "version":
        model = classes.causal_lm(classes.config(**fields))
        before = model.config.lbdsl
        with pytest.raises(ValueError, match=name):
            model.set_layer(1, entry["layers"][1])
        assert model.config.lbdsl == before


LOAD = """
import sys
sys.modules["lbdsl"] = None
from transformers import AutoConfig, AutoModelForCausalLM
for number, name in enumerate(sys.argv[1:]):
    try:
        AutoModelForCausalLM.from_pretrained(f"made-up-{number}", trust_remote_code=True)
    except ValueError as problem:
        assert name in str(problem), (name, str(problem))
    else:
        raise SystemExit(f"{name} ({number}) was read")
"""


@pytest.mark.torch
def test_the_runtime_beside_the_weights_refuses_it(tmp_path: Path, clean_process: CleanProcess) -> None:
    from lbdsl.artifact.runtime_files import write_runtime
    from lbdsl.model.runtime import hybrid_classes

    classes = hybrid_classes("llama")
    fields = {key: value for key, value in CONFIG.items() if key not in ("model_type", "architectures")}
    model = classes.causal_lm(classes.config(**fields))
    for number, what in enumerate(MADE_UP):
        folder = tmp_path / f"made-up-{number}"
        model.save_pretrained(folder)
        write_runtime(folder, model.config)
        config = json.loads((folder / "config.json").read_text())
        config["lbdsl"], _ = entry_with(what)
        (folder / "config.json").write_text(json.dumps(config))
    names = [name for name, _ in MADE_UP.values()]
    done = clean_process.run(LOAD, *names, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
