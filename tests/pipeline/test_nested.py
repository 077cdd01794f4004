"""Models that see images, as the hub has them: their language model is what is read, changed and saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lbdsl.core.diagnostic import LbdslError
from lbdsl.measure.skeleton import skeleton_of
from lbdsl.measure.tensor_files import TensorFiles
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load import load_base
from lbdsl.model.source import resolve_source
from tests.family_cases import COMMON, OPTIONS, VOCAB
from tests.tiny_model import byte_tokenizer

VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
WHOLE = {
    "gemma3_text": ("Gemma3", {"vision_config": VISION, "mm_tokens_per_image": 4}),
    "ministral3": ("Mistral3", {"vision_config": {**VISION, "model_type": "pixtral", "head_dim": 8}}),
}
NEWER = {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}
"""How names begin where transformers 5 calls the parts as its classes do."""
RECIPE = """lbr 1
measure { data = "builtin:pydoc"; tokens = 192; seq = 64 }
lowest 1 by influence drop
lowest 1 of rest by kl(swa(window=5, sinks=2)) swa(window=5, sinks=2)
lowest 1 of rest by nll(drop(mlp)) drop(mlp)
else kv_heads(1)
"""


def saved(family: str, folder: Path, newer: bool = False, **changes: object):
    """The whole model, in eval mode, saved in several files."""
    stem, others = WHOLE[family]
    text = {"model_type": family, **COMMON, **OPTIONS[family], "vocab_size": 260, **changes}
    torch.manual_seed(0)
    config = getattr(transformers, f"{stem}Config")(text_config=text, **others)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = family == "gemma3_text"
    model = getattr(transformers, f"{stem}ForConditionalGeneration")(config).eval()
    model.save_pretrained(folder, max_shard_size="60KB")
    byte_tokenizer().save_pretrained(folder)
    if newer:
        rename(folder, NEWER)
    return model


def rename(folder: Path, starts: dict[str, str]) -> None:
    def new(name: str) -> str:
        return next((end + name.removeprefix(start) for start, end in starts.items() if name.startswith(start)), name)

    for file in folder.glob("*.safetensors"):
        save_file({new(name): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {new(name): file for name, file in index["weight_map"].items()}
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("newer", [False, True], ids=["names of files", "names of classes"])
@pytest.mark.parametrize("family", WHOLE)
def test_the_language_model_is_read(family: str, newer: bool, tmp_path: Path) -> None:
    whole = saved(family, tmp_path, newer)
    source = resolve_source(str(tmp_path))
    facts = inspect_model(source).unwrap()
    ids = torch.randint(1, VOCAB, (2, 40), generator=torch.Generator().manual_seed(0))
    alone = load_base(source)
    assert facts.family == family
    assert facts.params == sum(parameter.numel() for parameter in alone.parameters())
    with torch.no_grad():
        assert torch.equal(alone(input_ids=ids).logits, whole(input_ids=ids).logits)
    files, weights = TensorFiles(tmp_path, torch.float32, "cpu"), dict(skeleton_of(tmp_path, facts).named_parameters())
    assert files.infos.keys() == weights.keys()
    assert all(torch.equal(files.read(name), alone.get_parameter(name)) for name in weights)


@pytest.mark.parametrize("family", WHOLE)
def test_an_artifact_is_that_of_the_language_model_alone(
    family: str, tmp_path: Path, new_cache: Callable[[Path], Path]
) -> None:
    """Measured, rewritten without loading, and saved: the same files whether it was beside another model or not."""
    import lbdsl
    from lbdsl.api.applying import ApplyOptions
    from lbdsl.session.options import RunOptions

    saved(family, tmp_path / "whole", newer=family == "ministral3")
    load_base(resolve_source(str(tmp_path / "whole"))).save_pretrained(tmp_path / "alone")
    byte_tokenizer().save_pretrained(tmp_path / "alone")
    (tmp_path / "r.lbr").write_text(RECIPE)
    weights, configs = [], []
    for name in ("whole", "alone"):
        options = RunOptions(cache_dir=new_cache(tmp_path / f"cache-{name}"))
        plan = lbdsl.plan_recipe(tmp_path / "r.lbr", str(tmp_path / name), options=options)
        assert plan.plan.applyable, plan.diagnostics
        done = lbdsl.apply_plan(plan, chosen=ApplyOptions(output=tmp_path / f"{name}-out"))
        assert done.exit_code == 0, done.diagnostics
        files = sorted((tmp_path / f"{name}-out").glob("*.safetensors"))
        weights.append({key: tensor for file in files for key, tensor in load_file(file).items()})
        configs.append(json.loads((tmp_path / f"{name}-out" / "config.json").read_text()))
    assert configs[0] == configs[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


def test_fields_of_the_whole_hold_for_its_language_model(tmp_path: Path) -> None:
    """Gemma 3's files leave out sizes that its class has; what quantized the whole quantized its language model."""
    saved("gemma3_text", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    assert [d.code for d in inspect_model(resolve_source(str(tmp_path))).diagnostics] == ["LB404"]
    for name in ("num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings"):
        del config["text_config"][name]
    path.write_text(json.dumps(config))
    (found,) = inspect_model(resolve_source(str(tmp_path))).diagnostics
    assert "[262208, 32]" in found.message


def test_one_tensor_by_two_names_is_refused(tmp_path: Path) -> None:
    saved("gemma3_text", tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name = next(name for name in content["weight_map"] if name.startswith("language_model."))
    file = tmp_path / content["weight_map"][name]
    tensors = load_file(file)
    again = name.replace("language_model.model.", "model.language_model.")
    save_file({**tensors, again: tensors[name].clone()}, file, metadata={"format": "pt"})
    content["weight_map"][again] = file.name
    index.write_text(json.dumps(content))
    (found,) = inspect_model(resolve_source(str(tmp_path))).diagnostics
    assert (found.code, "by two names" in found.message) == ("LB409", True)


@pytest.mark.parametrize("outer", ["t5gemma", "paligemma", ["gemma3"], None])
def test_what_may_hold_a_language_model(outer: object, tmp_path: Path) -> None:
    saved("gemma3_text", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": outer}))
    assert [d.code for d in inspect_model(resolve_source(str(tmp_path))).diagnostics] == ["LB403"]
    path.write_text(json.dumps({**config, "use_bidirectional_attention": True}))
    del config["text_config"]["use_bidirectional_attention"]
    path.write_text(json.dumps({**config, "use_bidirectional_attention": True}))
    assert [d.code for d in inspect_model(resolve_source(str(tmp_path))).diagnostics] == ["LB404"]
    path.write_text(json.dumps({**config, "text_config": {"model_type": []}}))
    assert [d.code for d in inspect_model(resolve_source(str(tmp_path))).diagnostics] == ["LB403"]


def test_a_language_model_of_another_family_is_refused(tmp_path: Path) -> None:
    saved("gemma3_text", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "llava", "text_config": {"model_type": "gpt2"}}))
    with pytest.raises(LbdslError, match="holds an image or audio model"):
        inspect_model(resolve_source(str(tmp_path))).unwrap()
