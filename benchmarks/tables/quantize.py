"""Rise of the loss under `quantize` alone, and of gptq against rtn, token by token, on both built-in texts: of SmolLM2, and
of a byte model whose weights were never 4-bit, trained here in bfloat16.

Needs `make model`. gptq takes its inputs on 8Ki tokens of pydoc; judged on 16Ki tokens of each text, 1Ki a sequence.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import CHANGING, JUDGING, ROOT, Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

SETTINGS = """lbr 1
measure {{ data = "builtin:pydoc"; tokens = 8Ki; seq = 1Ki }}
layers all {action}
eval {{ data = ["builtin:wikitext", "builtin:pydoc"]; tokens = 16Ki; seq = 1Ki }}
"""
ACTIONS = {
    "W8A8": "quantize(bits=8, activations=8)",
    "W8A16": "quantize(bits=8)",
    "W4A16-rtn": "quantize(bits=4)",
    "W4A16-gptq": "quantize(bits=4, method=gptq)",
    "W4A16-32-rtn": "quantize(bits=4, group=32)",
    "W4A16-32-gptq": "quantize(bits=4, group=32, method=gptq)",
    "FP8": "quantize(form=fp8)",
    "NVFP4": "quantize(form=nvfp4)",
    "NVFP4-W4A4": "quantize(form=nvfp4, activations=4)",
}


TRAINED = "trained-"
"""Rows of the model that is trained here."""


def train(folder: Path) -> None:
    """A Llama of 3.3 M parameters over bytes, 300 steps of 16 x 256 bytes of pydoc's healing part, in bfloat16 under
    float32 sums of Adam."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from lbdsl.data.blocks import token_blocks
    from lbdsl.data.split import TextPart
    from tests.tiny_model import byte_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=256,
        bos_token_id=None,
    )
    model: Any = LlamaForCausalLM(config)
    tokenizer = byte_tokenizer()
    ids = token_blocks("builtin:pydoc", TextPart.HEAL, tokenizer, 250_000, 250).ids
    settings = TrainingArguments(
        output_dir=str(folder / "training"),
        max_steps=300,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
    )
    data = [{"input_ids": row, "labels": row} for row in ids]
    Trainer(model=model, args=settings, train_dataset=data).train()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_of(name: str, work: Path) -> str:
    return str(once(work / "trained", train)) if name.startswith(TRAINED) else MODEL


def artifact(name: str, work: Path) -> Path:
    recipe, model = work / f"{name}.lbr", model_of(name, work)
    recipe.write_text(SETTINGS.format(action=ACTIONS[name.removeprefix(TRAINED)]), encoding="utf-8")
    return once(work / name, lambda folder: lbdsl("apply", str(recipe), model, "-o", str(folder), "--yes", "--force"))


def figures(source: Mapping[str, Any]) -> dict[str, float]:
    """Of a model judged on one text."""
    text = source["data"].removeprefix("builtin:")
    return {text: source["loss_rise"], f"{text} error": source["stderr"]["loss_rise"], f"{text} kl": source["kl"]}


def row(name: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        record = json.loads((artifact(name, work) / "lbdsl.json").read_text(encoding="utf-8"))
        plan = record["plan"]
        found = {"weights": plan["after"]["weights"] / plan["before"]["weights"]}
        for source in record["evaluation"]["sources"]:
            found |= figures(source)
        return found

    return Row(name, run)


def difference(form: str) -> Row:
    """gptq against rtn: the loss of one minus that of the other, paired by token, and what is left of rtn's rise."""

    def run(work: Path) -> dict[str, float]:
        from lbdsl.artifact.record import read_record
        from lbdsl.artifact.restore import load_artifact
        from lbdsl.core.progress import progress_of
        from lbdsl.evaluate.quality import judge_on
        from lbdsl.measure.layer_source import LoadedModel
        from lbdsl.session.model import OpenModel
        from lbdsl.session.options import RunOptions
        from lbdsl.session.texts import eval_blocks

        folders = [artifact(f"{form}-{method}", work) for method in ("rtn", "gptq")]
        records = [read_record(folder).unwrap() for folder in folders]
        bench = OpenModel(model_of(form, work), RunOptions(dtype=records[0].plan.model.dtype))
        wanted = records[0].plan.eval
        assert wanted is not None, "the recipe has an eval section"
        blocks = eval_blocks(wanted, records[0].plan.measure, None, bench, work)
        compute = bench.computed.dtype
        rtn, gptq = (LoadedModel(load_artifact(folder, device="cpu", compute=compute)) for folder in folders)
        found: dict[str, float] = {}
        for quality, source in zip(
            judge_on(rtn, gptq, blocks, "gptq against rtn", progress_of(None)),
            (records[0].evaluation or {})["sources"],
            strict=True,
        ):
            text, rise = quality.data.removeprefix("builtin:"), quality.rise
            assert rise is not None, "two models are judged"
            found |= {text: rise.value, f"{text} error": rise.stderr}
            if source["loss_rise"] > 2 * source["stderr"]["loss_rise"]:
                found[f"{text} left"] = 1 + rise.value / source["loss_rise"]
        return found

    return Row(f"{form}-gptq-minus-rtn", run)


def compressor(order: str) -> Row:
    """llm-compressor's GPTQ, with the same text, judged on the same text as lbdsl's."""

    def run(work: Path) -> dict[str, float]:
        from safetensors.torch import load_file, save_file

        from lbdsl.artifact.record import read_record
        from lbdsl.bench.environments import Environment
        from lbdsl.core.progress import progress_of
        from lbdsl.evaluate.quality import judge_on
        from lbdsl.measure.layer_source import LoadedModel
        from lbdsl.session.model import OpenModel
        from lbdsl.session.options import RunOptions
        from lbdsl.session.texts import eval_blocks, score_blocks

        plan = read_record(artifact("W4A16-gptq", work)).unwrap().plan
        bench = OpenModel(MODEL, RunOptions(dtype=plan.model.dtype))
        assert plan.eval is not None, "the recipe has an eval section"

        def unchanged(folder: Path) -> None:
            (work / "keep.lbr").write_text("else keep\n", encoding="utf-8")
            kept = once(work / "keep", lambda to: lbdsl("apply", str(work / "keep.lbr"), MODEL, "-o", str(to), "--yes"))
            lbdsl("export", str(kept), "--to", "native", "-o", str(folder))

        def quantize(file: Path) -> None:
            save_file({"ids": score_blocks(plan.measure, bench, work).ids}, work / "ids.safetensors")
            python = Environment("llmcompressor", "0.14.0.1", "llmcompressor").install()
            script = ROOT / "benchmarks" / "llm_compressor_gptq.py"
            words = (once(work / "plain", unchanged), work / "ids.safetensors", file, order)
            subprocess.run([str(python), str(script), *map(str, words)], check=True, capture_output=True)

        changed = bench.fresh_copy()
        made = load_file(once(work / f"llm-compressor-{order}.safetensors", quantize))
        for name, weight in made.items():
            changed.get_parameter(name).data.copy_(weight)
        blocks = eval_blocks(plan.eval, plan.measure, None, bench, work)
        judged = judge_on(bench.judged_base, LoadedModel(changed), blocks, "llm-compressor", progress_of(None))
        found: dict[str, float] = {}
        for quality in judged:
            found |= figures(quality.to_json())
        return found

    return Row(f"llm-compressor-gptq-{order}", run)


TABLE = Table(
    title="rise of the loss in nats a token, quantized and not healed",
    columns={
        "weights": ".1%",
        "wikitext": "+.4f",
        "wikitext error": ".4f",
        "wikitext kl": ".4f",
        "wikitext left": ".0%",
        "pydoc": "+.4f",
        "pydoc error": ".4f",
        "pydoc kl": ".4f",
        "pydoc left": ".0%",
    },
    rows=[
        *map(row, ACTIONS),
        difference("W4A16"),
        difference("W4A16-32"),
        *(row(f"{TRAINED}{name}") for name in ACTIONS if not name.startswith("W4A16-32")),
        difference(f"{TRAINED}W4A16"),
        compressor("none"),
        compressor("static"),
    ],
    measures=(*CHANGING, *JUDGING, "lbdsl/packing"),
)
