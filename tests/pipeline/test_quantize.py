"""`quantize` from a recipe to the file: what was measured and planned is what is saved, read, judged and exported."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lbdsl.api.applying import ApplyOptions, apply_plan, apply_saved_plan
from lbdsl.api.planning import plan_recipe
from lbdsl.artifact.record import packed_weights, read_record
from lbdsl.artifact.restore import load_artifact
from lbdsl.core.diagnostic import LbdslError
from lbdsl.model.checkpoint import read_tensors
from lbdsl.model.hybrid.lbdsl_part_nvfp4 import RoundedTo4Bits
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import resolve_source
from lbdsl.packing import int_weights as packing
from lbdsl.packing import packings, unpacked
from lbdsl.plan.file import save_plan
from lbdsl.run import apply as run
from lbdsl.session.exporting import export_artifact
from lbdsl.session.options import RunOptions
from tests.containers import same_in_every_container, saved
from tests.export_cases import small_tokenizer
from tests.family_cases import family_base
from tests.tiny_model import byte_tokenizer, save_tiny_model

MIXED = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 1 drop
modules "*.mlp.*" quantize(bits=4, METHOD)
layers all quantize(bits=8, activations=8)
"""
EVAL = 'eval { data = "builtin:pydoc"; tokens = 512; seq = 64 }\nassert ppl_increase < 900%\n'
HEAL = 'heal { data = "builtin:pydoc"; tokens = 1024; seq = 64; batch = 2; lr = 2e-3; method = lora(rank=4) }\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("quantize") / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    new_cache(tmp_path / "cache")


def applied(text: str, model: Path, folder: Path, name: str = "out", **options: object):
    (folder / f"{name}.lbr").write_text(text)
    run = RunOptions(cache_dir=folder / "cache", **options)
    planned = plan_recipe(folder / f"{name}.lbr", str(model), options=run)
    assert planned.plan.applyable, planned.diagnostics
    done = apply_plan(planned, chosen=ApplyOptions(output=folder / name))
    assert done.exit_code == 0, done.diagnostics
    return planned, done


@pytest.mark.parametrize("heal", ["", HEAL])
@pytest.mark.parametrize("method", [pytest.param("rtn", marks=pytest.mark.slow), "gptq"])
def test_from_a_recipe_to_an_artifact(method: str, heal: str, model: Path, tmp_path: Path) -> None:
    text = MIXED.replace("METHOD", f"method={method}") + heal + EVAL
    planned, done = applied(text, model, tmp_path)
    assert [d.code for d in planned.diagnostics if d.code == "LB349"] == ["LB349"] * (method == "gptq")
    plan, record = planned.plan, done.record
    assert sum(info.stop - info.start for info in read_tensors(done.folder).values()) == plan.after.weights
    rows = {row.storage: row for row in packed_weights(record)}
    four = "W4A16, groups of 32" + (", gptq" if method == "gptq" else "")
    assert {name: row.modules for name, row in rows.items()} == {four: 18, "W8A8": 20}
    # A scale of 32 bits for 32 weights, and two numbers of 64 for a matrix of 2,048.
    assert rows[four].bits == 4 + 32 / 32 + 128 / 2048
    assert 0 < rows["W8A8"].error < 0.02 < rows[four].error < 0.2
    card = (done.folder / "README.md").read_text()
    assert f"- 18 modules {four}: 5.06 bits a weight" in card
    assert "compressed-tensors" in card
    # Judged as it is: the loss of the model that its files hold.
    from lbdsl.session.texts import eval_blocks

    blocks = eval_blocks(plan.eval, plan.measure, plan.heal, planned.bench, tmp_path)[0]
    found = load_artifact(done.folder, plan, device="cpu")
    with torch.no_grad():
        loss = found(input_ids=blocks.ids, labels=blocks.ids).loss.item()
    assert record.evaluation["nll"]["artifact"] == pytest.approx(loss, abs=2e-4)
    if heal:
        before = record.evaluation["sources"][0]["before_healing"]["nll"]["artifact"]
        assert before != record.evaluation["nll"]["artifact"]


@pytest.mark.parametrize("stop", ["killed", pytest.param("asked to", marks=pytest.mark.slow)])
def test_stopped_while_packing_goes_on_from_the_healed_model(
    stop: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MIXED.replace("METHOD", "method=gptq") + HEAL
    _, unbroken = applied(text, model, tmp_path, "unbroken")
    (tmp_path / "r.lbr").write_text(text)
    planned = plan_recipe(tmp_path / "r.lbr", str(model), options=RunOptions(cache_dir=tmp_path / "cache"))
    packed = []
    real = packing.IntPacking.pack

    def pack(*arguments: object) -> object:
        packed.append(arguments)
        if stop == "killed" and len(packed) == 9:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packing.IntPacking, "pack", staticmethod(pack))
    output = ApplyOptions(output=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        apply_plan(planned, chosen=output, should_stop=lambda: stop == "asked to" and len(packed) >= 9)
    assert 9 <= len(packed) < 30
    monkeypatch.setattr(run, "_make", None)
    done = apply_plan(planned, chosen=replace(output, resume=True))
    first, second = saved(unbroken.folder), saved(done.folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert done.record.heal is not None
    assert not (tmp_path / "out.lbdsl-work").exists()


def test_what_is_measured_is_what_is_saved(model: Path, tmp_path: Path) -> None:
    text = MIXED.replace("METHOD", "group=64")
    text = text.replace('"*.mlp.*"', '"*.gate_proj", "*.up_proj", "*.down_proj" in layers 0').replace(
        "bits=4, group=64", "bits=4"
    )
    planned, done = applied(text, model, tmp_path)
    from lbdsl.session.texts import joint_blocks

    blocks = joint_blocks(planned.plan.measure, planned.bench, tmp_path)
    found = load_artifact(done.folder, planned.plan, device="cpu")
    with torch.no_grad():
        rise = (
            found(input_ids=blocks.ids, labels=blocks.ids).loss
            - planned.bench.base(input_ids=blocks.ids, labels=blocks.ids).loss
        )
    assert planned.plan.loss.rise.value == pytest.approx(rise.item(), abs=1e-5)


def test_a_score_of_rounded_weights_and_activations(model: Path, tmp_path: Path) -> None:
    """One layer at a time, with the arithmetic that it would have."""
    text = """measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
highest 2 by kl(quantize(bits=8, activations=8)) keep
lowest 2 of rest by nll(quantize(bits=4)) quantize(bits=4)
else keep
"""
    (tmp_path / "r.lbr").write_text(text)
    plan = plan_recipe(tmp_path / "r.lbr", str(model), options=RunOptions(cache_dir=tmp_path / "cache")).plan
    assert sum(bool(spec.weights) for spec in plan.specs) == 2
    values = [layer.scores["kl(quantize(bits=8, activations=8))"].value for layer in plan.layers]
    assert all(value > 0 for value in values)
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_low_memory_gives_the_same_tensors(method: str, model: Path, tmp_path: Path) -> None:
    text = MIXED.replace("METHOD", f"method={method}")
    one = applied(text, model, tmp_path, "loaded")[1].folder
    other = applied(text, model, tmp_path, "streamed", low_memory=True)[1].folder
    first, second = saved(one), saved(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_score_that_storage_cannot_have_is_refused_before_measuring(model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.lbr").write_text("highest 2 by kl(quantize(bits=4, group=1024)) keep\nelse quantize(bits=4)\n")
    with pytest.raises(LbdslError) as problem:
        plan_recipe(tmp_path / "r.lbr", str(model), options=RunOptions(cache_dir=tmp_path / "cache"))
    (said,) = [d for d in problem.value.diagnostics if d.is_error]
    assert said.code == "LB217"
    assert "kl(quantize(bits=4, group=1024))" in said.message


def test_matrices_that_gptq_cannot_store_are_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(*_: object) -> None:
        raise ValueError("the Gram matrix of its inputs cannot be inverted")

    (tmp_path / "r.lbr").write_text(MIXED.replace("METHOD", "method=gptq"))
    planned = plan_recipe(tmp_path / "r.lbr", str(model), options=RunOptions(cache_dir=tmp_path / "cache"))
    monkeypatch.setattr(packing.IntPacking, "pack", staticmethod(pack))
    with pytest.raises(LbdslError, match=r"model\.layers\.\d\..*_proj cannot be stored as .*: the Gram matrix") as problem:
        apply_plan(planned, chosen=ApplyOptions(output=tmp_path / "out"))
    assert [d.code for d in problem.value.diagnostics] == ["LB350"]
    assert not (tmp_path / "out").exists()


def test_integers_that_something_cast_are_refused(model: Path, tmp_path: Path) -> None:
    _, done = applied("layers all quantize(bits=8, activations=8)\n", model, tmp_path)
    (file,) = done.folder.glob("*.safetensors")
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].float()}, file, {"format": "pt"})
    (said,) = inspect_model(resolve_source(str(done.folder))).diagnostics
    assert said.code == "LB409"
    assert f"{name} is float32, expected int8" in said.message


def test_storage_that_is_left_open_is_refused(model: Path, tmp_path: Path) -> None:
    _, done = applied("layers all quantize(bits=4)\n", model, tmp_path)
    config = done.folder / "config.json"
    config.write_text(re.sub(r'"group": \d+', '"group": "auto"', config.read_text(), count=1))
    (said,) = inspect_model(resolve_source(str(done.folder))).diagnostics
    assert said.code == "LB402"
    assert "left open" in said.message


def test_gptq_without_enough_text_is_refused_by_the_plan(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.lbr"
    recipe.write_text('measure { data = "text.txt"; tokens = 4Ki; seq = 64 }\nlayers all quantize(bits=4, method=gptq)\n')
    (tmp_path / "text.txt").write_text("".join(f"Line {number} is not like the others.\n" for number in range(800)))
    with pytest.raises(LbdslError) as problem:
        plan_recipe(recipe, str(model), options=RunOptions(cache_dir=tmp_path / "cache"))
    (said,) = problem.value.diagnostics
    assert said.code == "LB446"
    # The joint loss needs half as much, and has it.
    assert "score" in said.message


def test_a_plan_with_gptq_is_of_its_text(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {number} is not like the others.\n" for number in range(900)))
    recipe = tmp_path / "r.lbr"
    recipe.write_text('measure { data = "text.txt"; tokens = 1Ki; seq = 64 }\nlayers all quantize(bits=4, method=gptq)\n')
    planned = plan_recipe(recipe, str(model), options=RunOptions(cache_dir=tmp_path / "cache"))
    save_plan(planned.plan, tmp_path / "plan.json")
    text.write_text(text.read_text().replace("others", "first"))
    with pytest.raises(LbdslError) as problem:
        apply_saved_plan(tmp_path / "plan.json", chosen=ApplyOptions(output=tmp_path / "out"))
    assert "LB343" in [d.code for d in problem.value.diagnostics]


def test_the_same_integers_in_every_container(model: Path, tmp_path: Path) -> None:
    text = MIXED.replace("METHOD", "method=gptq").replace("layers 1 drop\n", "layers 1 drop(block)\n")
    # llama.cpp needs a tokenizer with merges.
    model = Path(shutil.copytree(model, tmp_path / "model"))
    small_tokenizer().save_pretrained(model)
    planned, done = applied(text, model, tmp_path)
    assert same_in_every_container(done.folder, planned.plan, tmp_path) == 5 * 7
    native = json.loads(
        (export_artifact(done.folder, "native", output=tmp_path / "native").folder / "config.json").read_text()
    )
    assert native["num_hidden_layers"] == 5
    named = {name for group in native["quantization_config"]["config_groups"].values() for name in group["targets"]}
    assert named == {
        name.removesuffix(".weight_scale") for name in saved(tmp_path / "native") if name.endswith("weight_scale")
    }


def test_integers_of_a_file_are_what_compressed_tensors_reads(model: Path, tmp_path: Path) -> None:
    _, done = applied(MIXED.replace("METHOD", "method=rtn").replace("layers all quant", "else quant"), model, tmp_path)
    from transformers import AutoModelForCausalLM

    import lbdsl.hf  # noqa: F401

    theirs = AutoModelForCausalLM.from_pretrained(done.folder, trust_remote_code=False).eval()
    with torch.no_grad():
        theirs(input_ids=torch.ones(1, 4, dtype=torch.long))
    ours = dict(load_artifact(done.folder, device="cpu").named_parameters())
    found = dict(theirs.named_parameters())
    packed = {f"{name}.weight" for name in done.record.packed}
    assert packed
    assert all(torch.equal(found[name], ours[name]) for name in packed)


FLOATS = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 1, 2, 4 swa(window=32, sinks=learned)
modules "*.mlp.*" quantize(form=fp8, activations=16)
modules "*.o_proj" quantize(bits=8)
layers all quantize(form=fp8)
"""


@pytest.mark.parametrize("heal", [pytest.param("", marks=pytest.mark.slow), HEAL])
def test_floats_from_a_recipe_to_what_loads_them(heal: str, model: Path, tmp_path: Path) -> None:
    """Measured, planned, saved, streamed, read back, exported: one model, with one arithmetic."""
    from transformers import AutoModelForCausalLM

    import lbdsl.hf  # noqa: F401
    from lbdsl.session.texts import joint_blocks

    model = Path(shutil.copytree(model, tmp_path / "model"))
    small_tokenizer().save_pretrained(model)
    planned, done = applied(FLOATS + heal, model, tmp_path)
    first = saved(done.folder)
    assert sum(tensor.nbytes for tensor in first.values()) == planned.plan.after.weights
    assert {row.storage: row.modules for row in packed_weights(done.record)} == {
        "FP8 W8A16": 18,
        "FP8 W8A8": 18,
        "W8A16, groups of 32": 6,
    }
    streamed = saved(applied(FLOATS + heal, model, tmp_path, "streamed", low_memory=True)[1].folder)
    assert first.keys() == streamed.keys()
    if not heal:
        assert all(torch.equal(first[name].view(torch.uint8), streamed[name].view(torch.uint8)) for name in first)
    blocks = joint_blocks(planned.plan.measure, planned.bench, tmp_path)
    ours = load_artifact(done.folder, planned.plan, device="cpu")
    with torch.no_grad():
        logits = ours(input_ids=blocks.ids).logits
        if not heal:
            loss = ours(input_ids=blocks.ids, labels=blocks.ids).loss
            rise = loss - planned.bench.base(input_ids=blocks.ids, labels=blocks.ids).loss
            assert planned.plan.loss.rise.value == pytest.approx(rise.item(), abs=1e-5)
        stock = AutoModelForCausalLM.from_pretrained(done.folder, trust_remote_code=False).eval()
        assert torch.equal(stock(input_ids=blocks.ids).logits, logits)
        granite = export_artifact(done.folder, "granite", output=tmp_path / "granite").folder
        stock = AutoModelForCausalLM.from_pretrained(granite).eval()
        apart = (stock(input_ids=blocks.ids).logits - logits).abs().amax(-1)
        # Its attention rounds otherwise: an input between two floats may become the other, in one token and those after it.
        assert apart.median() < 1e-5
    with pytest.raises(LbdslError, match="storage of weights called `fp8`"):
        export_artifact(done.folder, "gguf", output=tmp_path / "gguf")


@pytest.mark.parametrize(
    ("form", "heal"),
    [
        pytest.param("form=nvfp4", "", marks=pytest.mark.slow),
        pytest.param("form=nvfp4, activations=4", "", marks=pytest.mark.slow),
        ("form=nvfp4, activations=4", HEAL),
    ],
)
def test_four_bit_floats_from_a_recipe_to_what_loads_them(
    form: str, heal: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, in which compressed-tensors makes them. It rounds inputs with divisions, and kernels with products; by
    its rounding the model is the same."""
    from compressed_tensors.quantization import QuantizationScheme, QuantizationStatus
    from compressed_tensors.quantization.lifecycle.forward import forward_quantize
    from transformers import AutoModelForCausalLM

    import lbdsl.hf  # noqa: F401

    base = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    text = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nmodules "*.mlp.*" quantize(form=nvfp4)\n'
    text = f"{text}layers 2 drop\nlayers all quantize(form=nvfp4)\n{heal}".replace("form=nvfp4", form)
    planned, done = applied(text, base, tmp_path)
    first = saved(done.folder)
    assert sum(tensor.nbytes for tensor in first.values()) == planned.plan.after.weights
    (row,) = packed_weights(done.record)
    assert (row.storage, row.modules) == (f"NVFP4 W4A{4 if 'act' in form else 16}", 6 * 7 - 4)
    assert 0.02 < row.error < 0.12
    # q, k and v are one matrix for vLLM, and gate and up.
    for layer in range(6):
        for parent in ("self_attn", "mlp"):
            of = [first[name] for name in first if f".{layer}.{parent}." in name and name.endswith("weight_global_scale")]
            assert all(torch.equal(scale, of[0]) for scale in of)
    streamed = saved(applied(text, base, tmp_path, "streamed", low_memory=True)[1].folder)
    assert first.keys() == streamed.keys()
    assert heal or all(torch.equal(first[name].view(torch.uint8), streamed[name].view(torch.uint8)) for name in first)
    ours = dict(load_artifact(done.folder, planned.plan, device="cpu").named_parameters())
    theirs = AutoModelForCausalLM.from_pretrained(done.folder, trust_remote_code=False).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad(), monkeypatch.context() as patched:
        logits = theirs(input_ids=ids).logits
        model = load_artifact(done.folder, planned.plan, device="cpu")
        if "act" in form:
            (storage,) = {part for spec in planned.plan.specs for _, part in spec.weights}
            inputs = QuantizationScheme(targets=["Linear"], **storage.scheme).input_activations
            rounding = lambda self, states: forward_quantize(self, states, "input", inputs)  # noqa: E731
            assert not torch.equal(logits, model(input_ids=ids).logits)
            patched.setattr(RoundedTo4Bits, "rounding", rounding)
            patched.setattr(RoundedTo4Bits, "quantization_status", QuantizationStatus.COMPRESSED, raising=False)
        assert torch.equal(logits, model(input_ids=ids).logits)
    scales = [name for name in first if name.endswith("input_global_scale")]
    assert len(scales) == (38 if "act" in form else 0)
    for name in scales:
        module, _, leaf = name.rpartition(".")
        assert torch.equal(theirs.get_parameter(name), first[name])
        assert getattr(model.get_submodule(module), leaf) == first[name].item() > 0
    assert all(torch.equal(value, ours[name]) for name, value in theirs.named_parameters() if name in ours)
    (tmp_path / "r.lbr").write_text(text.replace("layers 2", f"highest 1 by kl(quantize({form})) keep\nlayers 2"))
    plan = plan_recipe(tmp_path / "r.lbr", str(base), options=RunOptions(cache_dir=tmp_path / "cache")).plan
    assert all(score.value > 0 for layer in plan.layers for score in layer.scores.values())
    assert all(len(layer.scores) == 1 for layer in plan.layers)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("form=fp8, activations=4", "`fp8` has activations of 16 or 8 bits"),
        ("form=nvfp4, activations=8", "`nvfp4` has activations of 16 or 4 bits"),
        ("form=fp8, bits=8, group=32", "has no bits or group"),
    ],
)
def test_what_does_not_go_with_floats(action: str, said: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.lbr").write_text(f"layers all quantize({action})\n")
    with pytest.raises(LbdslError, match=said) as problem:
        plan_recipe(tmp_path / "r.lbr", str(model), options=RunOptions(cache_dir=tmp_path / "cache", dtype="bfloat16"))
    assert [d.code for d in problem.value.diagnostics if d.is_error] == ["LB105"]


def test_four_bit_floats_are_of_bfloat16(model: Path, tmp_path: Path) -> None:
    """As what loads them makes them: a model of another dtype would not run."""
    (tmp_path / "r.lbr").write_text("layers all quantize(form=nvfp4)\n")
    with pytest.raises(LbdslError, match="made in bfloat16 by what loads them, and this model is of float32") as problem:
        plan_recipe(tmp_path / "r.lbr", str(model), options=RunOptions(cache_dir=tmp_path / "cache"))
    assert [d.code for d in problem.value.diagnostics if d.is_error] == ["LB217"]


EXPERTS = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
lowest 1 by kl(quantize(bits=4)) quantize(bits=8)
layers all experts(50%)
modules "*.experts.*" quantize(bits=8)
else quantize(bits=4)
"""


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_in_every_container(family: str, tmp_path: Path) -> None:
    """One tensor of all in an artifact, loaded or streamed; one of each for other tools; llama.cpp's blocks."""
    import gguf
    from transformers import AutoModelForCausalLM

    import lbdsl.hf  # noqa: F401

    plain = {"use_sliding_window": False, "attention_bias": False, "mlp_only_layers": []}
    base, sizes = tmp_path / "base", {"vocab_size": 260, "intermediate_size": 64, "moe_intermediate_size": 64}
    family_base(family, **sizes, initializer_range=0.1, **plain).save_pretrained(base)
    small_tokenizer().save_pretrained(base)
    planned, done = applied(EXPERTS, base, tmp_path)
    streamed = applied(EXPERTS, base, tmp_path, "streamed", low_memory=True)[1].folder
    first, second = saved(done.folder), saved(streamed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(tensor.nbytes for tensor in first.values()) == planned.plan.after.weights
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(done.folder, trust_remote_code=False).eval()
        assert ours.model.layers[0].mlp.experts.down_proj.weight_packed.dtype == torch.int32
        logits = load_artifact(done.folder, device="cpu")(input_ids=ids).logits
        assert torch.allclose(ours(input_ids=ids).logits, logits, rtol=0, atol=1e-5)
        native = export_artifact(done.folder, "native", output=tmp_path / "native").folder
        stock = AutoModelForCausalLM.from_pretrained(native).eval()
        assert torch.allclose(stock(input_ids=ids).logits, logits, rtol=0, atol=1e-4)
    entry = json.loads((native / "config.json").read_text())["quantization_config"]
    targets = [target for group in entry["config_groups"].values() for target in group["targets"]]
    for name in saved(native):
        module, _, leaf = name.rpartition(".")
        packed, left = (
            sum(t == module or (t.startswith("re:") and re.match(t[3:], module) is not None) for t in of)
            for of in (targets, entry["ignore"])
        )
        assert packed == leaf.startswith("weight_")
        assert left == (not packed and "norm" not in name and "embed" not in name)
    file = export_artifact(done.folder, "gguf", output=tmp_path / "gguf").folder / "model.gguf"
    found = {
        tensor.name: torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        for tensor in gguf.GGUFReader(file).tensors
        if "exps" in tensor.name
    }
    assert len(found) == 3 * 4
    for index, layer in enumerate(stock.model.layers):
        gate, up, down = (found[f"blk.{index}.ffn_{which}_exps.weight"] for which in ("gate", "up", "down"))
        assert torch.equal(torch.cat([gate, up], dim=1), layer.mlp.experts.gate_up_proj)
        assert torch.equal(down, layer.mlp.experts.down_proj)


FLOAT_EXPERTS = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers all experts(50%)
layers all quantize(form=fp8)
"""


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_as_floats(family: str, tmp_path: Path) -> None:
    """With inputs that are rounded to them in measurements and in what is saved; transformers' own class does not round
    what its experts are given."""
    from transformers import AutoModelForCausalLM

    import lbdsl.hf  # noqa: F401
    from lbdsl.session.texts import joint_blocks

    plain = {"use_sliding_window": False, "attention_bias": False, "mlp_only_layers": []}
    base, sizes = tmp_path / "base", {"vocab_size": 260, "intermediate_size": 64, "moe_intermediate_size": 64}
    family_base(family, **sizes, initializer_range=0.1, **plain).save_pretrained(base)
    small_tokenizer().save_pretrained(base)
    planned, done = applied(FLOAT_EXPERTS, base, tmp_path)
    streamed = applied(FLOAT_EXPERTS, base, tmp_path, "streamed", low_memory=True)[1].folder
    first, second = saved(done.folder), saved(streamed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8)) for name in first)
    assert sum(tensor.nbytes for tensor in first.values()) == planned.plan.after.weights
    ids = joint_blocks(planned.plan.measure, planned.bench, tmp_path).ids
    with torch.no_grad():
        model = load_artifact(done.folder, planned.plan, device="cpu")
        found = model(input_ids=ids, labels=ids)
        rise = found.loss - planned.bench.base(input_ids=ids, labels=ids).loss
        assert planned.plan.loss.rise.value == pytest.approx(rise.item(), abs=1e-5)
        ours = AutoModelForCausalLM.from_pretrained(done.folder, trust_remote_code=False).eval()
        assert ours.model.layers[0].mlp.experts.down_proj.weight.dtype == torch.float8_e4m3fn
        assert torch.equal(ours(input_ids=ids).logits, found.logits)
        for layer in model.model.layers:
            assert layer.mlp.experts.rounding.keys() == {"gate_up_proj", "down_proj"}
            layer.mlp.experts.rounding.clear()
        unrounded = model(input_ids=ids).logits
        assert not torch.equal(unrounded, found.logits)
        native = export_artifact(done.folder, "native", output=tmp_path / "native").folder
        stock = AutoModelForCausalLM.from_pretrained(native).eval()
        apart = (stock(input_ids=ids).logits - unrounded).abs().amax(-1)
        # Its attention rounds otherwise: an input between two floats may become the other, in one token and those after it.
        assert apart.median() < 1e-5
    with pytest.raises(LbdslError, match="storage of weights called `fp8`"):
        export_artifact(done.folder, "gguf", output=tmp_path / "gguf")


def test_experts_alone_in_bfloat16_are_rounded_once(tmp_path: Path) -> None:
    """In memory, from disk and as they are measured: the same matrices, whatever they are computed in."""
    family_base("olmoe", vocab_size=260, intermediate_size=64).bfloat16().save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    text = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nmodules "*.experts.*" quantize(bits=4)\n'
    _, done = applied(text, tmp_path / "base", tmp_path)
    assert "quantization_config" not in json.loads((done.folder / "config.json").read_text())
    loaded = dict(load_artifact(done.folder, device="cpu", compute="float32").named_parameters())
    name = "model.layers.1.mlp.experts.gate_up_proj"
    tensors = {
        key.removeprefix(f"{name}."): value for key, value in saved(done.folder).items() if key.startswith(f"{name}.")
    }
    (storage,) = {part for _, part in done.record.plan.specs[1].weights}
    assert torch.equal(loaded[name], unpacked(storage, tensors).float())


def test_what_experts_cannot_be(tmp_path: Path) -> None:
    family_base("granitemoe", vocab_size=260, intermediate_size=64).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    refused = {
        "bits=8, activations=8": "inputs of experts are not rounded to integers",
        "bits=4, method=gptq": "inputs of each expert",
    }
    refused |= {"form=fp8, activations=16": "experts of 8-bit floats with 16-bit inputs"}
    for storage, said in refused.items():
        (tmp_path / "r.lbr").write_text(f"layers all quantize({storage})\n")
        with pytest.raises(LbdslError, match=said) as problem:
            plan_recipe(tmp_path / "r.lbr", str(tmp_path / "base"), options=RunOptions(cache_dir=tmp_path / "cache"))
        assert [d.code for d in problem.value.diagnostics if d.is_error] == ["LB217"]
    _, one = applied("layers all quantize(bits=4)\n", tmp_path / "base", tmp_path, "one")
    with pytest.raises(LbdslError, match="one tensor in files"):
        export_artifact(one.folder, "native", output=tmp_path / "native")
    family_base("olmoe", vocab_size=260, intermediate_size=64).save_pretrained(tmp_path / "other")
    byte_tokenizer().save_pretrained(tmp_path / "other")
    _, other = applied("layers 1 quantize(bits=4)\nelse keep\n", tmp_path / "other", tmp_path, "mixed")
    with pytest.raises(LbdslError, match="those of all layers are stored alike"):
        export_artifact(other.folder, "native", output=tmp_path / "native")


def test_packed_weights_are_not_changed_again(model: Path, tmp_path: Path) -> None:
    _, done = applied("else quantize(bits=4)\n", model, tmp_path)
    (tmp_path / "again.lbr").write_text("layers 0 drop\nelse keep\n")
    with pytest.raises(LbdslError) as raised:
        plan_recipe(tmp_path / "again.lbr", str(done.folder), again=True, options=RunOptions(cache_dir=tmp_path / "cache"))
    assert [d.code for d in raised.value.diagnostics] == ["LB404"]
    assert read_record(done.folder).unwrap().packed.keys() == done.record.packed.keys()


def test_every_kind_of_packed_storage_has_a_packing() -> None:
    from lbdsl.parts import Slot, parts
    from lbdsl.parts.base import Storage

    kinds = {
        kind
        for kind, part in parts().items()
        if part.slot is Slot.WEIGHTS and part.saved_tensors is not Storage.saved_tensors
    }
    assert kinds == set(packings())
