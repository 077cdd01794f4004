"""Uses of the runtime that go wrong quietly: other plans' caches, packed rows, swaps, saving again, bad specifications."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

import lbdsl.hf  # noqa: F401  (registers the model types)
from lbdsl.model.hybrid.lbdsl_cache import CACHE_NAME
from lbdsl.model.surgery import to_hybrid
from tests.hybrid_cases import FULL, NONE, cache_of, hybrid_of, plans, stock_logits, swa, tiny_base
from tests.specs import layer_of

W, N = 5, 3


def gen(seed, *shape):
    return torch.randint(1, 101, shape, generator=torch.Generator().manual_seed(seed))


def test_packed_sequences_do_not_leak_through_windows():
    model = hybrid_of(tiny_base(), [swa(6, 2)] * 4)
    a, b = gen(1, 1, 9), gen(2, 1, 11)
    pos = torch.cat([torch.arange(9), torch.arange(11)])[None]
    with torch.no_grad():
        packed = model(input_ids=torch.cat([a, b], 1), position_ids=pos, use_cache=False).logits
        alone = model(input_ids=b, use_cache=False).logits
    assert (packed[:, 9:] - alone).abs().max() < 1e-4


def test_packed_full_layers_control():
    model = hybrid_of(tiny_base(), [FULL] * 4)
    a, b = gen(1, 1, 9), gen(2, 1, 11)
    pos = torch.cat([torch.arange(9), torch.arange(11)])[None]
    with torch.no_grad():
        packed = model(input_ids=torch.cat([a, b], 1), position_ids=pos, use_cache=False).logits
        alone = model(input_ids=b, use_cache=False).logits
    assert (packed[:, 9:] - alone).abs().max() < 1e-4


@pytest.mark.parametrize("specs", [[NONE, FULL, FULL, FULL], [swa(W, N), NONE, FULL, FULL]])
def test_batch_select_indices(specs):
    model = hybrid_of(tiny_base(), specs)
    ids = gen(3, 3, 12)
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids[:, :11], use_cache=True))
        cache.batch_select_indices(torch.tensor([2, 0]))
        out = model(input_ids=ids[[2, 0], 11:], **{CACHE_NAME: cache}).logits
        whole = model(input_ids=ids[[2, 0]], use_cache=False).logits[:, -1:]
    assert (out - whole).abs().max() < 1e-4


@pytest.mark.parametrize("specs", [[NONE, FULL, FULL, FULL], [swa(W, N), NONE, FULL, FULL]])
def test_batch_repeat_interleave(specs):
    model = hybrid_of(tiny_base(), specs)
    ids = gen(3, 2, 12)
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids[:, :11], use_cache=True))
        cache.batch_repeat_interleave(2)
        r = ids.repeat_interleave(2, 0)
        out = model(input_ids=r[:, 11:], **{CACHE_NAME: cache}).logits
        whole = model(input_ids=r, use_cache=False).logits[:, -1:]
    assert (out - whole).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([FULL] * 4, [NONE, FULL, FULL, FULL]),
        ([FULL] * 4, [swa(W, N), FULL, FULL, FULL]),
        ([swa(W, N), FULL, FULL, FULL], [FULL] * 4),
        ([swa(W, N), FULL, FULL, FULL], [swa(W + 2, N), FULL, FULL, FULL]),
    ],
)
def test_a_cache_of_another_plan_is_refused(first, second):
    base = tiny_base()
    one, two = hybrid_of(base, first), hybrid_of(base, second)
    ids = gen(4, 1, 14)
    with torch.no_grad():
        cache = cache_of(one(input_ids=ids[:, :13], use_cache=True))
        with pytest.raises(ValueError, match="filled by another model"):
            two(input_ids=ids[:, 13:], **{CACHE_NAME: cache})


def test_prefill_in_inference_mode_then_decode_outside():
    model = hybrid_of(tiny_base(), [swa(W, N), FULL, FULL, FULL])
    ids = gen(5, 1, 20)
    with torch.inference_mode():
        cache = cache_of(model(input_ids=ids[:, :19], use_cache=True))
    with torch.no_grad():
        out = model(input_ids=ids[:, 19:], **{CACHE_NAME: cache}).logits
        whole = model(input_ids=ids, use_cache=False).logits[:, -1:]
    assert (out - whole).abs().max() < 1e-4


def test_failed_crop_leaves_the_cache_as_it_was():
    model = hybrid_of(tiny_base(), [FULL, swa(W, N), FULL, FULL])
    ids = gen(6, 1, 20)
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids[:, :19], use_cache=True))
    with pytest.raises((ValueError, RuntimeError)):
        cache.crop(-1)
    assert {layer.get_seq_length() for layer in cache.layers} == {19}


def test_is_croppable_says_what_crop_can_do():
    model = hybrid_of(tiny_base(), [swa(W, N), FULL, FULL, FULL])
    with torch.no_grad():
        cache = cache_of(model(input_ids=gen(6, 1, 19), use_cache=True))
    assert not all(layer.is_croppable for layer in cache.layers[:1])


def test_assisted_within_window():
    model = hybrid_of(tiny_base(), [NONE, swa(60, 4), FULL, FULL])
    ids = gen(7, 1, 6).repeat(1, 3)
    kw = dict(max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **kw), model.generate(ids, use_cache=False, **kw))


def test_two_turns_with_a_users_cache():
    model = hybrid_of(tiny_base(), plans(W, N)["drop + swa first"])
    ids = gen(9, 2, 20)
    kw = dict(do_sample=False, pad_token_id=0)
    cache = DynamicCache()
    one = model.generate(ids, max_new_tokens=9, **{CACHE_NAME: cache}, **kw)
    more = torch.cat([one, gen(10, 2, 6)], 1)
    assert torch.equal(
        model.generate(more, max_new_tokens=9, **{CACHE_NAME: cache}, **kw),
        model.generate(more, max_new_tokens=9, use_cache=False, **kw),
    )


def test_output_attentions_is_not_ignored():
    with pytest.raises(ValueError, match="does not give attention weights"):
        hybrid_of(tiny_base(), [FULL] * 4)(input_ids=gen(11, 1, 9), output_attentions=True)


def test_hidden_states_equal_stock():
    base = tiny_base()
    model = hybrid_of(base, [FULL] * 4)
    ids = gen(11, 2, 9)
    with torch.no_grad():
        a = base(input_ids=ids, output_hidden_states=True).hidden_states
        b = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=False))


def test_model_returns_a_tuple_when_asked():
    model = hybrid_of(tiny_base(), [FULL] * 4)
    assert isinstance(model.model(input_ids=gen(1, 1, 4), return_dict=False), tuple)


@pytest.mark.parametrize("impl", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [4, 64])
def test_finite_with_padding(impl, window):
    base = tiny_base()
    base.set_attn_implementation(impl)
    model = hybrid_of(base, [swa(window, 2), FULL, NONE, swa(window, 0)])
    ids, mask = gen(12, 3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[0, :7] = 0
    mask[2, :] = 0
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids, attention_mask=mask).logits).all()


def test_right_padding_prefill_equals_rows():
    base, specs = tiny_base(), plans(W, N)["two window sizes"]
    model = hybrid_of(base, specs)
    ids, mask = gen(12, 3, 17), torch.ones(3, 17, dtype=torch.long)
    for r, L in enumerate((17, 9, 2)):
        mask[r, L:] = 0
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask).logits
    for r, L in enumerate((17, 9, 2)):
        assert (out[r : r + 1, :L] - stock_logits(base, specs, ids[r : r + 1, :L])).abs().max() < 1e-4


def test_wide_mask_as_stock_takes_it():
    base = tiny_base()
    model = hybrid_of(base, [FULL] * 4)
    ids = gen(1, 1, 6)
    mask = torch.ones(1, 9, dtype=torch.long)
    with torch.no_grad():
        want = base(input_ids=ids, attention_mask=mask, use_cache=True).logits
        assert torch.equal(model(input_ids=ids, attention_mask=mask, use_cache=True).logits, want)


@pytest.fixture
def add_part(monkeypatch):
    """Makes the runtime know one part kind more, a mixer that keeps nothing."""
    from lbdsl.model.hybrid import lbdsl_hybrid
    from lbdsl.model.hybrid.lbdsl_cache import NoCacheLayer

    def add(kind, module, fields=()):
        class Part:
            FIELDS = MASK_FIELDS = fields

            def build(self, attention_class, config, layer_idx, part):
                return module(config)

            def make_cache(self, config, layer_idx, part, reserved):
                return NoCacheLayer()

            def make_mask(self, context, part):
                return None

        real = lbdsl_hybrid.part
        monkeypatch.setattr(lbdsl_hybrid, "part", lambda name: Part() if name == kind else real(name))
        monkeypatch.setattr(lbdsl_hybrid, "checked_spec", lambda spec, index: spec)
        return {**FULL, "mixer": {"kind": kind}}

    return add


def test_weights_that_are_gone_are_not_made_up(add_part):
    class VO(torch.nn.Module):
        def __init__(self, c):
            super().__init__()
            self.v_proj = torch.nn.Linear(c.hidden_size, 16, bias=False)
            self.o_proj = torch.nn.Linear(32, c.hidden_size, bias=False)

    model = hybrid_of(tiny_base(), [FULL] * 4)
    model.set_layer(1, add_part("vo", VO))
    with pytest.raises(ValueError, match="lost the weights"):
        model.set_layer(1, swa(4))


def test_weights_of_another_shape_are_not_taken(add_part):
    class Narrow(torch.nn.Module):
        def __init__(self, c):
            super().__init__()
            self.v_proj = torch.nn.Linear(c.hidden_size, 8, bias=False)

    model = hybrid_of(tiny_base(), [FULL] * 4)
    with pytest.raises(ValueError, match=r"another shape than it would need: self_attn\.v_proj\.weight"):
        model.set_layer(1, add_part("narrow", Narrow))


@pytest.mark.parametrize(
    ("name", "said"),
    [("mlp.up_proj", "lost the weights that it would need: mlp.up_proj.inner.weight"), ("mlp.z", "no linear map 'mlp.z'")],
)
def test_storage_takes_the_weights_of_a_map_that_is_there(monkeypatch, name, said):
    from lbdsl.model.hybrid import lbdsl_hybrid

    class Renamed(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    class Part:
        def wrap(self, linear, part):
            return Renamed(linear)

    real = lbdsl_hybrid.part
    monkeypatch.setattr(lbdsl_hybrid, "part", lambda kind: Part() if kind == "renamed" else real(kind))
    monkeypatch.setattr(lbdsl_hybrid, "checked_spec", lambda spec, index: spec)
    model = hybrid_of(tiny_base(), [FULL] * 4)
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        model.set_layer(1, {**FULL, "weights": {name: {"kind": "renamed"}}})


def test_a_mixer_may_have_buffers(add_part):
    class Buf(torch.nn.Module):
        def __init__(self, c):
            super().__init__()
            self.v_proj = torch.nn.Linear(c.hidden_size, 16, bias=False)
            self.register_buffer("decay", torch.full((4,), 0.5))

    model = hybrid_of(tiny_base(), [FULL] * 4)
    model.set_layer(1, add_part("buf", Buf))
    assert not model.model.layers[1].self_attn.decay.is_meta


def test_a_specification_may_hold_a_list(add_part):
    class Nop(torch.nn.Module):
        def __init__(self, c):
            super().__init__()

        def forward(self, hidden_states, **k):
            return torch.zeros_like(hidden_states), None

    model = hybrid_of(tiny_base(), [FULL] * 4)
    entry = add_part("nop", Nop, ("dilations",))
    model.set_layer(1, {**entry, "mixer": {**entry["mixer"], "dilations": [1, 2]}})
    model(input_ids=gen(1, 1, 5), use_cache=False)


def test_set_layer_keeps_gradient_checkpointing():
    model = hybrid_of(tiny_base(), [FULL] * 4).train()
    model.gradient_checkpointing_enable()
    model.set_layer(1, swa(4, 1))
    assert model.model.layers[1].gradient_checkpointing
    assert model.model.layers[0].gradient_checkpointing


def test_set_layer_leaves_copies_of_the_config():
    model = hybrid_of(tiny_base(), [FULL] * 4)
    kept = copy.copy(model.config)
    model.set_layer(1, NONE)
    assert kept.lbdsl["layers"][1] == FULL


def test_failed_layer_keeps_config():
    model = hybrid_of(tiny_base(), [FULL] * 4)
    with pytest.raises(ValueError, match="a window has a size of at least 1"):
        model.set_layer(1, swa(0))
    assert model.config.lbdsl["layers"][1] == FULL


def with_window(**window):
    return {**FULL, "mixer": {**FULL["mixer"], "window": window}}


WRONG = {
    "unknown field 'sink'": with_window(size=8, sink_tokens=4, sink=4),
    "lacks the field 'sink_tokens'": with_window(size=8),
    "both integers": with_window(size=True, sink_tokens=0),
    "of the kind 'spiral'; known here: attention": {**FULL, "mixer": {**FULL["mixer"], "kind": "spiral"}},
    "layer 0.mixer has the unknown field 'rank'": {**FULL, "mixer": {**FULL["mixer"], "rank": 4}},
    "layer 0.ffn has no `kind`": {**FULL, "ffn": {"width": 48}},
    "layer 0 has the unknown field 'attn'": {**FULL, "attn": "full"},
    "layer 0 lacks the field 'weights'": {"mixer": None, "ffn": None},
    "known here: fp8, int": {**FULL, "weights": {"mlp.up_proj": {"kind": "ternary"}}},
    "lacks the field 'method'": {
        **FULL,
        "weights": {"mlp.up_proj": {"kind": "int", "bits": 4, "group": 32, "activations": 16}},
    },
}


@pytest.mark.parametrize("said", WRONG)
def test_what_nothing_computes_is_refused_by_name(said):
    with pytest.raises(ValueError, match=said.replace("`", ".")):
        hybrid_of(tiny_base(), [WRONG[said], FULL, FULL, FULL])


def test_layers_without_an_mlp():
    no_mlp = layer_of(FULL, mlp=False)
    model = hybrid_of(tiny_base(), [no_mlp, layer_of(FULL, attention=False, mlp=False), FULL, FULL])
    assert model.config.lbdsl["layers"][0] == no_mlp
    model.generate(gen(1, 1, 5), max_new_tokens=8, do_sample=False, pad_token_id=0)


def test_other_llama_classes_are_refused_with_a_code():
    from transformers import LlamaForSequenceClassification, LlamaModel

    from lbdsl.core.diagnostic import LbdslError

    for cls in (LlamaForSequenceClassification, LlamaModel):
        with pytest.raises(LbdslError) as caught:
            to_hybrid(cls(tiny_base().config))
        assert [d.code for d in caught.value.diagnostics] == ["LB420"]


RELOAD = """
import sys; sys.modules["lbdsl"] = None
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
"""


def test_saved_again_through_lbdsl_hf_loads_anywhere(tmp_path, clean_process):
    from transformers import AutoModelForCausalLM

    from lbdsl.artifact.runtime_files import write_runtime

    model = hybrid_of(tiny_base(), [NONE, swa(W, N), FULL, FULL])
    model.save_pretrained(tmp_path / "a")
    write_runtime(tmp_path / "a", model.config)
    AutoModelForCausalLM.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    done = clean_process.run(RELOAD, tmp_path / "b", cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "m")
    assert done.returncode == 0, done.stderr[-300:]


TWO = """
import sys; sys.modules["lbdsl"] = None
from transformers import AutoModelForCausalLM, AutoModel
a = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/x/saved", trust_remote_code=True)
b = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/y/saved", trust_remote_code=True)
c = AutoModel.from_pretrained(sys.argv[1] + "/y/saved", trust_remote_code=True)
import torch
ids = torch.arange(1, 30)[None]
a(ids), b(ids), c(ids)
a(ids)
a.generate(ids, max_new_tokens=9, pad_token_id=0)
"""


@pytest.mark.parametrize(("first", "second"), ["xy", "yx"])
def test_two_artifacts_of_one_folder_name_in_one_process(first, second, tmp_path, clean_process):
    from lbdsl.artifact.runtime_files import write_runtime

    # One of them has parts that the other lacks.
    for d, specs in ((first, [NONE] * 4), (second, [swa(W, N), FULL, FULL, FULL])):
        model = hybrid_of(tiny_base(), specs)
        model.save_pretrained(tmp_path / d / "saved")
        write_runtime(tmp_path / d / "saved", model.config)
    done = clean_process.run(TWO, tmp_path, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "m")
    assert done.returncode == 0, done.stderr[-1500:]
