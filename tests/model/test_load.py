"""Loading: what was inspected is what is loaded, or a coded error."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch

from lbdsl.artifact.restore import load_artifact
from lbdsl.core.diagnostic import LbdslError
from lbdsl.measure.skeleton import skeleton_of
from lbdsl.model import gguf_copy
from lbdsl.model.digest import model_digest
from lbdsl.model.inspect import facts_summary, inspect_model
from lbdsl.model.load import load_base, load_tokenizer, pick_device
from lbdsl.model.source import resolve_source
from lbdsl.model.surgery import to_hybrid
from tests.family_cases import family_base
from tests.model_cases import edit_json, save_gguf, save_llama, tiny_llama
from tests.real_model import model_folder

IDS = torch.arange(40).remainder(96)[None]


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits.float()


def code_of(call):
    with pytest.raises(LbdslError) as caught:
        call()
    return caught.value.diagnostics[0].code


def save_tokenizer(folder: Path):
    """A byte-level tokenizer of 260 tokens with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


@pytest.mark.parametrize("options", [{}, {"shards": True}, {"tie_word_embeddings": True}, {"dtype": "bfloat16"}])
def test_loaded_model_is_the_saved_one(tmp_path, options, capfd):
    saved = save_llama(tmp_path, **options)
    capfd.readouterr()
    source = resolve_source(str(tmp_path))
    model = load_base(source, device="cpu")
    assert torch.equal(logits(model), logits(saved))
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    facts = inspect_model(source).unwrap()
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{facts.dtype}"}
    assert sum(p.numel() for p in model.parameters()) == facts.params
    assert capfd.readouterr() == ("", "")


def test_dtype_is_cast(tmp_path):
    save_llama(tmp_path)
    model = load_base(resolve_source(str(tmp_path)), dtype="bf16", device=torch.device("cpu"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_damaged_weights_are_found_before_they_are_mapped(tmp_path):
    save_llama(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert code_of(lambda: load_base(resolve_source(str(tmp_path)))) == "LB405"


def test_weights_are_never_random(tmp_path):
    from safetensors.torch import load_file, save_file

    save_llama(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert code_of(lambda: load_base(resolve_source(str(tmp_path)))) == "LB409"


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "no-such-activation"},
        {"hidden_act": 5},
        {"attention_dropout": "x"},
        {"use_cache": "x"},
        {"pad_token_id": 10**6},
    ],
    ids=str,
)
def test_what_transformers_refuses_is_coded(tmp_path, changes):
    """With and without weights, whatever kind of error it raises."""
    save_llama(tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    source = resolve_source(str(tmp_path))
    assert code_of(lambda: load_base(source)) == "LB417"
    assert code_of(lambda: skeleton_of(source.path, inspect_model(source).unwrap())) == "LB417"


def test_an_error_of_arithmetic_is_coded(tmp_path):
    family_base("gemma3_text").save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", sliding_window_pattern=0, layer_types=None)
    assert code_of(lambda: load_base(resolve_source(str(tmp_path)))) == "LB417"


def test_a_message_in_two_lines_is_told_whole(tmp_path):
    save_llama(tmp_path)
    edit_json(tmp_path / "config.json", hidden_act=5)
    with pytest.raises(LbdslError) as caught:
        load_base(resolve_source(str(tmp_path)))
    assert "'hidden_act': TypeError" in caught.value.diagnostics[0].message


def test_a_tokenizer_that_the_library_refuses_is_coded(tmp_path):
    """Its error has no type of its own."""
    save_tokenizer(tmp_path)
    save_llama(tmp_path)
    edit_json(tmp_path / "tokenizer.json", model={"type": "Unheard-of"})
    assert code_of(lambda: load_tokenizer(resolve_source(str(tmp_path)))) == "LB418"


@pytest.mark.parametrize(
    "entry",
    [
        {},
        [1],
        {"version": 1, "base_model_type": "llama", "layers": [{"attn": "none"}] * 3},
        {"version": 2, "base_model_type": "llama", "layers": [{"mixer": None, "ffn": None, "weights": {}}] * 3},
    ],
    ids=str,
)
def test_an_entry_of_ours_in_a_stock_model_means_nothing(tmp_path, entry):
    """Only the name of the family makes a model an artifact's, for headers and for weights alike."""
    saved = save_llama(tmp_path)
    edit_json(tmp_path / "config.json", lbdsl=entry)
    source = resolve_source(str(tmp_path))
    hybrid = to_hybrid(load_base(source, device="cpu"))
    assert torch.equal(logits(hybrid), logits(saved))
    skeleton = skeleton_of(source.path, inspect_model(source).unwrap())
    assert skeleton.config.lbdsl == hybrid.config.lbdsl
    assert hybrid.config.lbdsl["layers"] == [spec.to_json() for spec in inspect_model(source).unwrap().layer_specs]


def test_a_stock_model_is_not_loaded_as_an_artifact(tmp_path):
    save_llama(tmp_path)
    assert code_of(lambda: load_artifact(tmp_path, device="cpu")) == "LB465"


def test_a_report_of_missing_keys_is_an_error(tmp_path):
    from lbdsl.model.load_check import check_loaded

    model = save_llama(tmp_path)
    source = resolve_source(str(tmp_path))
    facts = inspect_model(source).unwrap()
    check_loaded(model, {"missing_keys": set(), "unexpected_keys": []}, facts, source)
    assert code_of(lambda: check_loaded(model, {"missing_keys": {"a"}}, facts, source)) == "LB417"
    assert code_of(lambda: check_loaded(model, {"unexpected_keys": ["a"]}, facts, source)) == "LB417"
    other = tiny_llama(num_hidden_layers=2)
    assert code_of(lambda: check_loaded(other, {}, facts, source)) == "LB417"


def test_an_artifact_is_not_a_base_model(tmp_path):
    save_llama(tmp_path)
    (tmp_path / "lbdsl.json").write_text("{}")
    assert code_of(lambda: load_base(resolve_source(str(tmp_path)))) == "LB417"


def test_the_users_transformers_settings_come_back(tmp_path):
    from transformers.utils import logging

    save_llama(tmp_path)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_base(resolve_source(str(tmp_path)))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("nonsense", "cuda:99", "xla", "meta"):
        assert code_of(lambda name=name: pick_device(name)) == "LB416"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert code_of(lambda: pick_device("cuda")) == "LB416"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert code_of(lambda: pick_device("mps")) == "LB416"


def test_tokenizer(tmp_path):
    save_llama(tmp_path)
    source = resolve_source(str(tmp_path))
    assert code_of(lambda: load_tokenizer(source)) == "LB418"
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(source)
    text = "two  spaces,\n\ttab, é 日本"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.chat_template
    assert tokenizer.eos_token == "</s>"


class TestGguf:
    @pytest.mark.parametrize("tied", [False, True])
    def test_it_loads_as_the_model_it_was_made_from(self, tmp_path, tied, capfd):
        original = tiny_llama(tie_word_embeddings=tied)
        save_gguf(tmp_path / "tiny.gguf", original, tokens=96)
        capfd.readouterr()
        source = resolve_source(str(tmp_path))
        cache = tmp_path / "cache"
        model = load_base(source, dtype="float32", device="cpu", cache_dir=cache)
        torch.testing.assert_close(logits(model), logits(original), rtol=1e-5, atol=1e-6)
        assert capfd.readouterr() == ("", "")
        assert not getattr(model.config, "quantization_config", None)
        assert model.generation_config.eos_token_id == 2
        model.save_pretrained(tmp_path / "plain")
        assert torch.equal(logits(load_base(resolve_source(str(tmp_path / "plain")))), logits(model))

    def test_the_copy_is_used_again_and_made_again_when_damaged(self, tmp_path, monkeypatch):
        save_gguf(tmp_path / "tiny.gguf", tiny_llama(), tokens=96)
        source = resolve_source(str(tmp_path))
        cache = tmp_path / "cache"
        first = logits(load_base(source, cache_dir=cache))
        made = []
        convert = gguf_copy._convert
        monkeypatch.setattr(gguf_copy, "_convert", lambda *args: (made.append(1), convert(*args)))
        assert torch.equal(logits(load_base(source, cache_dir=cache)), first)
        assert not made
        (weights,) = cache.glob("gguf/*/bfloat16-*/model.safetensors")
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-1])
        assert torch.equal(logits(load_base(source, cache_dir=cache)), first)
        assert made
        assert not list(cache.glob("gguf/*/.part-*"))

    def test_another_process_was_faster(self, tmp_path):
        place = tmp_path / "copies" / "x"

        def slow(folder):
            (folder / "mine").write_text("")
            shutil.copytree(folder, place)
            (place / "theirs").write_text("")

        assert gguf_copy._make(place, slow) == place
        assert (place / "theirs").exists()
        assert [p.name for p in place.parent.iterdir()] == ["x"]

    def test_a_cache_in_the_way(self, tmp_path):
        save_gguf(tmp_path / "tiny.gguf", tiny_llama(), tokens=96)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "gguf").write_text("a file in the way")
        source = resolve_source(str(tmp_path))
        assert code_of(lambda: load_base(source, cache_dir=tmp_path / "cache")) == "LB419"

    def test_a_tokenizer_that_is_not_there(self, tmp_path):
        save_gguf(tmp_path / "tiny.gguf", tiny_llama())
        assert code_of(lambda: load_tokenizer(resolve_source(str(tmp_path)), cache_dir=tmp_path / "cache")) == "LB418"


@pytest.mark.slow
def test_smollm2(tmp_path):
    source = resolve_source(model_folder())
    facts = inspect_model(source).unwrap()
    assert (facts.params, facts.layers, facts.dtype) == (134_515_008, 30, "bfloat16")
    assert facts_summary(facts)["kv_bytes_per_token"] == 23_040
    assert len(facts.modules) == 210
    model = load_base(source, device="cpu", cache_dir=tmp_path)
    assert sum(p.numel() for p in model.parameters()) == facts.params
    assert model.generation_config.eos_token_id == 2
    tokenizer = load_tokenizer(source, cache_dir=tmp_path)
    text = "Hello  world!\n\tdef f(x): return 'é' # 日本 123"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert "<|im_start|>" in tokenizer.chat_template
    started = time.perf_counter()
    load_base(source, device="cpu", cache_dir=tmp_path)
    load_tokenizer(source, cache_dir=tmp_path)
    assert time.perf_counter() - started < 5
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = resolve_source(str(tmp_path / "saved"))
    assert inspect_model(saved).unwrap() == facts
    assert len(model_digest(saved, tmp_path)) == 64
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
