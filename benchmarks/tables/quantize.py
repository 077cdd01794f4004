"""Rise of SmolLM2's loss under `quantize` alone, and of gptq against rtn, token by token, on both built-in texts.

Needs `make model`. gptq takes its inputs on 8Ki tokens of pydoc; judged on 16Ki tokens of each text, 1Ki a sequence.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.table import Row, Table, once
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
}


def artifact(name: str, work: Path) -> Path:
    recipe = work / f"{name}.lbr"
    recipe.write_text(SETTINGS.format(action=ACTIONS[name]), encoding="utf-8")
    return once(work / name, lambda folder: lbdsl("apply", str(recipe), MODEL, "-o", str(folder), "--yes", "--force"))


def row(name: str) -> Row:
    def run(work: Path) -> dict[str, float]:
        record = json.loads((artifact(name, work) / "lbdsl.json").read_text(encoding="utf-8"))
        plan = record["plan"]
        found = {"weights": plan["after"]["weights"] / plan["before"]["weights"]}
        for source in record["evaluation"]["sources"]:
            text = source["data"].removeprefix("builtin:")
            found |= {text: source["loss_rise"], f"{text} error": source["stderr"]["loss_rise"]}
        return found

    return Row(name, run)


def difference(groups: str) -> Row:
    """gptq against rtn: the loss of one minus that of the other, paired by token, and what is left of rtn's rise."""

    def run(work: Path) -> dict[str, float]:
        from lbdsl.artifact.record import read_record
        from lbdsl.artifact.restore import load_artifact
        from lbdsl.core.progress import progress_of
        from lbdsl.evaluate.quality import judge_on
        from lbdsl.measure.layer_source import LoadedModel
        from lbdsl.verbs.options import RunOptions
        from lbdsl.verbs.texts import eval_blocks
        from lbdsl.verbs.workbench import Workbench

        folders = [artifact(f"W4A16{groups}-{method}", work) for method in ("rtn", "gptq")]
        records = [read_record(folder).unwrap() for folder in folders]
        bench = Workbench(MODEL, RunOptions(dtype=records[0].plan.model.dtype))
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
            text = quality.data.removeprefix("builtin:")
            left = 1 + quality.rise.value / source["loss_rise"]
            found |= {text: quality.rise.value, f"{text} error": quality.rise.stderr, f"{text} left": left}
        return found

    return Row(f"W4A16{groups}-gptq-minus-rtn", run)


TABLE = Table(
    title="rise of SmolLM2's loss in nats a token, quantized and not healed",
    columns={
        "weights": ".1%",
        "wikitext": "+.4f",
        "wikitext error": ".4f",
        "wikitext left": ".0%",
        "pydoc": "+.4f",
        "pydoc error": ".4f",
        "pydoc left": ".0%",
    },
    rows=[*map(row, ACTIONS), difference(""), difference("-32")],
)
