"""The model card (README.md of the artifact): changes, costs, quality and the recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lbdsl.actions.patches import patch_texts
from lbdsl.artifact.benched import COLUMNS, measured_by, noise_of, row_of
from lbdsl.artifact.contents import CARD
from lbdsl.artifact.needle import draw_needles, needles_in
from lbdsl.artifact.record import Record, cautions_of, healing_stages, packed_weights
from lbdsl.core.files import replace_file
from lbdsl.core.pictures import Target, picture
from lbdsl.core.printed import as_code, as_code_block, as_markdown, as_row, as_yaml, printable
from lbdsl.core.units import bytes_text, count_text, layers_text, ranges_text, tokens_text
from lbdsl.data.contamination import GRAM, NOTABLE
from lbdsl.model.source import hub_repository
from lbdsl.plan.made_from import ModelRef
from lbdsl.plan.schema import Plan
from lbdsl.plan.words import (
    AS_SAVED,
    PREFILL,
    joint_text,
    part_text,
    parts_of,
    quality_rows,
    shares_of,
    undecided_text,
    value_text,
)

HEALING, NEEDLE = "healing.png", "needle.png"


def write_card(record: Record, folder: Path) -> None:
    """Write the card and its pictures."""
    for name, draw in drawings(record).items():
        draw(folder / name)
    (folder / CARD).write_text(card_text(record), encoding="utf-8")


def drawings(record: Record) -> dict[str, Callable[[Target], None]]:
    """What draws each picture of the card, by its file: the losses, if the model was healed, and what needles found."""
    stages, needles = _drawn(record), needles_in(record.evaluation or {})
    healing: dict[str, Callable[[Target], None]] = {HEALING: partial(draw_healing, stages)} if stages else {}
    return healing | ({NEEDLE: partial(draw_needles, needles)} if needles else {})


def write_speed(record: Record, folder: Path) -> None:
    """Write what `bench` measured into README.md. The rest of it stays: it may have been edited. A link is replaced: it may
    lead to any file of the user's."""
    path = folder / CARD
    if path.is_file() and not path.is_symlink():
        text = path.read_text(encoding="utf-8")
    else:
        text = card_text(record)
    own = "\n".join(_bench_lines(record)) + "\n"
    text = re.sub(r"^## Speed\n.*?(?=^## |\Z)|^(?=## Recipe$)|\Z", lambda _: own, text, count=1, flags=re.M | re.S)
    replace_file(path, text.encode())


def card_text(record: Record) -> str:
    """README.md of an artifact."""
    plan = record.plan
    base, (model, recipe) = base_name(plan.model), names_of(plan)
    version = "" if plan.model.revision is None else f"revision {as_code(plan.model.revision)}, "
    lines = [
        "---",
        f"base_model: {as_yaml(base)}",
        "library_name: transformers",
        "tags: [lbdsl, compressed]",
        "---",
        "",
        f"# {as_markdown(model)}, compressed by {as_code(recipe)}",
        "",
    ]
    if record.status != "accepted":
        lines += ["> **Rejected.** A quality gate of the recipe failed; see the asserts below.", ""]
    lines += [
        f"Made by lbdsl {as_markdown(record.lbdsl_version)} from {as_code(base)} "
        f"({version}sha256 {as_code(plan.model.digest[:16])}). Load it with",
        "",
        "    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)",
        "",
        *needed(record),
        "or without remote code after `import lbdsl.hf`. The tokenizer needs no remote code:",
        "`AutoTokenizer.from_pretrained(folder, trust_remote_code=False)`.",
        "",
    ]
    lines += _plan_lines(record) + _cost_lines(record) + _weights_lines(record) + _heal_lines(record)
    lines += _quality_lines(record) + _bench_lines(record)
    lines += ["## Recipe", "", as_code_block(plan.recipe.text, "lbr"), ""]
    for item in plan.recipe.included:
        lines += [f"It includes {as_code(item.path)}:", "", as_code_block(item.text, "lbr"), ""]
    if plan.recipe.params:
        values = ", ".join(as_code(f"${k} = {v}") for k, v in sorted(plan.recipe.params.items()))
        lines += [f"Parameters: {values}.", ""]
    return "\n".join(lines)


def base_name(model: ModelRef) -> str:
    """The public name of the base: the hub repository without revision, which is the only form that the hub accepts as
    `base_model`, else the model's name. A local folder would mean nothing to other users."""
    repository = hub_repository(model.source) if model.revision is not None else None
    return repository or model.name or model.source


def names_of(plan: Plan) -> tuple[str, str]:
    """Those of the model and of the recipe."""
    return plan.model.name or plan.model.source, plan.recipe.name or Path(plan.recipe.path).stem


def _plan_lines(record: Record) -> list[str]:
    lines = ["## Layers", "", "| layers | what became of them | rule |", "|---|---|---|"]
    alike: dict[tuple[str, str], list[int]] = {}
    for layer in record.plan.changed:
        done = " + ".join([*(planned.action.text() for planned in layer.acting), *patch_texts(layer.weights)])
        rules = ", ".join(map(str, sorted({planned.rule for planned in layer.acting})))
        alike.setdefault((done, rules), []).append(layer.index)
    lines += [as_row((ranges_text(layers), f"`{done}`", rules)) for (done, rules), layers in alike.items()]
    kept = [layer.index for layer in record.plan.layers if not layer.changed]
    said = layers_text(kept) if kept else "no layer"
    when = " before healing, which trains the layers behind the first change, too" if record.heal is not None else ""
    return [*lines, "", f"Kept as they were{when}: {said}.", ""]


def _cost_lines(record: Record) -> list[str]:
    costs = record.plan.costs
    lines = ["## Cost", "", "| | base | this model |", "|---|---|---|"]
    lines.append(f"| parameters | {count_text(costs.params.before)} | {count_text(costs.params.after)} |")
    caches = {f"cache of one sequence of {tokens_text(ctx)} tokens": cost for ctx, cost in costs.kv_bytes.items()}
    for name, cost in {"weights": costs.weights, **caches}.items():
        lines.append(f"| {name} | {bytes_text(cost.before)} | {bytes_text(cost.after)} |")
    return [*lines, "", *_predicted_lines(record.plan)]


def _predicted_lines(plan: Plan) -> list[str]:
    """The plan's predictions, marked as such."""
    lines = [
        f"- decode at {tokens_text(speed.context)} tokens, batch {speed.batch}: x{speed.bound:.2f} by formula (from "
        "bytes and FLOPs on the machine that planned it, not measured)"
        for speed in plan.speeds
        if math.isfinite(speed.bound)
    ]
    if plan.windowed:
        lines.append(f"- prefill: {PREFILL}")
    for item in plan.serving:
        exports = ", ".join(as_code(name) for name in item.formats if name != AS_SAVED)
        ways = ([AS_SAVED] if AS_SAVED in item.formats else []) + ([f"exported to {exports}"] if exports else [])
        how = "; ".join(ways) or f"no: {as_markdown(item.obstacle or '')}"
        lines.append(f"- {as_markdown(item.engine)}: {how}")
    return [*lines, ""] if lines else []


def needed(record: Record) -> list[str]:
    """What transformers needs to read packed weights."""
    if not record.packed:
        return []
    return [
        "(transformers reads the weights with `pip install compressed-tensors`, and unpacks them at the first forward, so",
        "they take no less memory there; with `dequantize=True` it gives all modules the first group's format)",
        "",
    ]


def _weights_lines(record: Record) -> list[str]:
    rows = [f"- {as_markdown(str(weights))}" for weights in packed_weights(record)]
    return ["## Weights", "", *rows, ""] if rows else []


def _heal_lines(record: Record) -> list[str]:
    if record.heal is None:
        why = " (`--no-heal`)" if record.no_heal else ""
        return ["## Healing", "", f"None{why}.", ""]
    heal = record.heal
    lines = ["## Healing", ""]
    for stage in healing_stages(heal):
        name = f"Stage `{stage['stage']}`: " if "stages" in heal else ""
        seen = f"{name}{stage['steps']} steps, {stage['tokens']} tokens seen of `{stage['data']}`"
        lines += [
            f"{as_markdown(seen)} ({stage['passes']:.1f} passes), {count_text(stage['trained_params'])} weights trained in "
            f"{stage['seconds']:.0f} s.",
            "",
        ]
        apart = stage.get("validation") or []
        if apart:
            best = min(loss for _, loss in apart)
            lines += [
                f"Loss on other text of the same source: {apart[0][1]:.3f} before, {best:.3f} after "
                f"{as_markdown(str(stage.get('kept')))} tokens, whose weights are kept.",
                "",
            ]
    return [*lines, f"![healing loss]({HEALING})", ""] if _drawn(record) else lines


def _quality_lines(record: Record) -> list[str]:
    lines = ["## Quality", ""]
    loss = record.plan.loss
    when = "The" if record.heal is None else "Before healing the"
    if loss.rise is not None:
        error = f" ± {loss.rise.stderr:.3f}" if loss.rise.stderr is not None else ""
        others = "".join(f", {as_markdown(joint_text(name, score))}" for name, score in loss.others.items())
        lines += [
            f"{when} loss rose by {loss.rise.value:.3f}{error} nats a token{others} "
            f"(measured on calibration text, {loss.tokens} tokens).",
            "",
        ]
    if record.plan.recall is not None:
        lost = as_markdown(record.plan.recall.text("±"))
        lines += [f"Of what stands far back in a text, {when.lower()} model lost: {lost}.", ""]
    if record.evaluation is None:
        lines += ["The finished model was not judged: the recipe has no `eval` block and no assert on it.", ""]
    else:
        for source in record.evaluation.get("sources", [record.evaluation]):
            lines += _quality_table(source)
        for task in record.evaluation.get("tasks", ()):
            lines += _task_table(task)
        if needles_in(record.evaluation):
            lines += [f"![facts found by length and depth]({NEEDLE})", ""]
    said = [f"**Caution:** {as_markdown(caution)}." for caution in cautions_of(record)]
    lines += [*said, ""] if said else []
    for item in record.asserts:
        value = f" ({value_text(item)}{f' on {as_code(item.on)}' if item.on else ''})" if item.value is not None else ""
        lines.append(f"- {as_code(f'assert {item.text}')}: {item.status}{value}")
    undecided = undecided_text(record.asserts)
    return [*lines, "", *([f"{undecided}.", ""] if undecided else [])] if record.asserts else lines


def _quality_table(source: dict[str, Any]) -> list[str]:
    head, *rows = quality_rows(source)
    on = f"On `{source['data']}`, {source['tokens']} tokens"
    return [
        f"{as_markdown(on)} apart from calibration and healing:",
        "",
        *map(as_row, (head, ["---"] * len(head), *rows)),
        "",
        *_seen_lines(source),
    ]


def _task_table(task: dict[str, Any]) -> list[str]:
    """Right answers of both models, by kind and at each depth of a needle, too."""
    shown = shares_of(task)
    parts = [(name, part_text(part["base"]), part_text(part["artifact"]), "") for name, part in parts_of(task).items()]
    rows = [("all", shown["base"], shown["artifact"], shown["recovery"]), *parts]
    return [
        as_markdown(f"`{task['name']}`, {task['questions']} questions, {task['metric']}:"),
        "",
        "| | base | this model | recovery |",
        "|---|---|---|---|",
        *map(as_row, rows),
        "",
    ]


def _seen_lines(source: dict[str, Any]) -> list[str]:
    share = source.get("seen", 0.0)
    said = f"{share:.1%} of this text's runs of {GRAM} tokens also occur in the text that calibrated or healed the model."
    return [said, ""] if share >= NOTABLE else []


def _bench_lines(record: Record) -> list[str]:
    if record.bench is None:
        return []
    lines = ["## Speed", "", "A ratio is this model's figure over the base's; `again` is a model's over itself.", ""]
    for benched in record.bench.values():
        rows = [COLUMNS, tuple("---" for _ in COLUMNS), *map(row_of, benched["cells"])]
        lines += [f"{as_markdown(measured_by(benched))}:", "", *map(as_row, rows), ""]
        if noise := noise_of(benched):
            lines += [noise, ""]
    return lines


def _drawn(record: Record) -> list[dict[str, Any]]:
    """The stages of healing whose loss is a curve."""
    return [stage for stage in healing_stages(record.heal) if len(stage["curve"]) > 1] if record.heal else []


def draw_healing(stages: list[dict[str, Any]], to: Target) -> None:
    """Draw the losses of each stage, on the text that healed and on other text."""
    with picture(to, len(stages), figsize=(7, 3.2)) as (_, row):
        for stage, axes in zip(stages, row if len(stages) > 1 else [row], strict=True):
            texts = (("curve", "#1f5fa8", "training text"), ("validation", "#b5542b", "text that did not heal"))
            for name, colour, label in texts:
                if points := stage.get(name):
                    losses = [loss for _, loss in points]
                    axes.plot([tokens / 1000 for tokens, _ in points], losses, marker=".", color=colour, label=label)
            axes.legend()
            axes.set_xlabel("thousand tokens seen")
            axes.set_ylabel(printable(f"loss of the stage {stage['stage']}") if len(stages) > 1 else "loss")
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
