"""Terminal output of a plan: the change of each layer, by which rule, why, and what it costs and gains."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.text import Text

from lbdsl.actions.patches import patch_texts
from lbdsl.core.digest import short
from lbdsl.core.printed import printable
from lbdsl.core.units import Unit, bytes_text, duration_text, plural, tokens_text
from lbdsl.parts import Mark
from lbdsl.plan.estimate import MANY
from lbdsl.plan.schema import Plan, Speed
from lbdsl.plan.words import PREFILL, joint_text, signed_text
from lbdsl.recipe.schema_blocks import JUDGED, Asked, HealSettings, Stage, task_name
from lbdsl.report.choice import choice_lines
from lbdsl.report.console import ascii_only, write_line
from lbdsl.report.plan_tables import change_lines, cost_lines, result_lines, rule_lines
from lbdsl.report.strip import ASCII_LEVELS, LEVELS, STYLES, Row, Scale, mark_rows, strip_lines

if TYPE_CHECKING:
    from lbdsl.core.diagnostic import Diagnostic
    from lbdsl.plan.schema import Finding
    from lbdsl.session.targets import Target

_SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


class Paragraph(NamedTuple):
    """Text that is wrapped, with the lines after its first one indented."""

    text: str
    indent: int
    style: str = ""

    def lines(self, width: int) -> list[Text]:
        indent = " " * self.indent
        found = textwrap.wrap(self.text, width, subsequent_indent=indent, replace_whitespace=False, break_on_hyphens=False)
        return [Text(line, style=self.style) for line in found]


Lines = Iterator[Text | Paragraph]


def render_plan(plan: Plan, console: Console, *, all_layers: bool = False) -> None:
    """Print a plan on `console`. `all_layers` lists every changed layer, not only some of each kind."""
    ascii_ = ascii_only(console)
    width = console.width
    sections: list[Iterable[Text | Paragraph]] = [
        _header(plan, width, ascii_),
        _strip(plan, width, ascii_),
        rule_lines(plan, width),
        choice_lines(plan, width, ascii_),
        change_lines(plan, width, ascii_, all_layers),
        cost_lines(plan, ascii_),
        [
            *_speed_lines(plan.speeds),
            *([Paragraph(f" prefill: {PREFILL}", 10)] if plan.windowed else []),
            *_loss_lines(plan, ascii_),
            *_recall_lines(plan, ascii_),
            *_patch_lines(plan),
            *_heal_lines(plan),
            *_judge_lines(plan),
            *_estimate_lines(plan),
        ],
        result_lines(plan.asserts, width, ascii_, plan.heal is not None),
        _finding_lines(plan),
    ]
    for section in sections:
        if items := list(section):
            _write(console, [*items, Text()])
    _write(console, [*_closing(plan), *_serving_lines(plan)])


def _write(console: Console, items: Iterable[Text | Paragraph]) -> None:
    for item in items:
        for line in item.lines(console.width) if isinstance(item, Paragraph) else (item,):
            write_line(console, line)


def score_labels(plan: Plan) -> dict[str, str]:
    """The short name in the strip of each score in the plan, in order: `sens` for the metric and action that
    `sensitivity` means, else the metric."""
    # Sorted, for a saved plan is.
    keys = sorted({key for layer in plan.layers for key in layer.scores})
    sensitivity = (f"{plan.measure.metric}(drop)", plan.measure.metric)
    labels: dict[str, str] = {}
    for key in keys:
        label = "sens" if key in sensitivity and "sens" not in labels.values() else key.split("(")[0][:9]
        again = sum(label == other.split("-")[0] for other in labels.values())
        labels[key] = f"{label}-{again + 1}" if again else label
    return labels


def _header(plan: Plan, width: int, ascii_: bool) -> Lines:
    recipe, model = plan.recipe, plan.model
    parts = [
        "lbdsl plan",
        f"{PurePath(recipe.path).name}@{short(recipe.sha256, 4)}",
        f"{model.name or PurePath(model.source).name}@{short(model.digest, 4)} ({model.dtype})",
    ]
    on = plan.measured_on
    if on is not None and on.digest is not None:
        length = f"{tokens_text(on.tokens)} tokens in sequences of {tokens_text(on.seq)}"
        parts.append(f"measured on {on.data}@{short(on.digest, 4)} ({length})")
    dot = " - " if ascii_ else " · "
    line = ""
    for part in map(printable, parts):
        if line and len(line) + len(dot) + len(part) > width:
            yield Text(line, style="bold")
            line = "  " + part
        else:
            line = line + dot + part if line else part
    yield Text(line, style="bold")
    if recipe.params:
        values = ", ".join(
            f"${name.removeprefix('$')} = {value}" + (" (--set)" if name in recipe.set_params else "")
            for name, value in recipe.params.items()
        )
        yield Paragraph(f"  {printable(values)}", 2, "dim")


def _strip(plan: Plan, width: int, ascii_: bool) -> Lines:
    marked = list(mark_rows({"": plan}))
    rows = [row for row, _ in marked]
    legends = []
    for key, label in score_labels(plan).items():
        values = [layer.scores[key].value if key in layer.scores else None for layer in plan.layers]
        known = [value for value in values if value is not None]
        scale = Scale.of(known, ASCII_LEVELS if ascii_ else LEVELS)
        if scale is None:
            continue
        rows.append(Row(label, [" " if value is None else scale.mark(value) for value in values], ["cyan"] * len(values)))
        unit = next(layer.scores[key].unit for layer in plan.layers if key in layer.scores)
        name = label if label == key else f"{label}: {key}"
        legends.append(
            f"{name}, {scale.marks[0]} {scale.low:.3g} to {scale.marks[-1]} {scale.high:.3g}"
            f"{' ' + unit if unit is Unit.NATS else ''}, logarithmic"
            + (", estimated" if plan.measured_on is not None and key in plan.measured_on.estimated else "")
            + (", blank: not needed" if len(known) < len(values) else "")
        )
    yield from strip_lines(rows, width)
    line = Text("  ")
    for sign, meaning, style in dict.fromkeys(meaning for _, marks in marked for meaning in _meanings(marks)):
        said = f"{sign} {meaning}" if sign else meaning
        if len(line) > 2 and len(line) + len(said) > width:
            line.rstrip()
            yield line
            line = Text("  ")
        line.append(said, style=style).append("   ")
    line.rstrip()
    yield line
    for legend in legends:
        yield Paragraph(f"  {legend}", 4, "dim")


def _meanings(marks: Sequence[Mark]) -> Iterator[tuple[str, str, str]]:
    """(sign, meaning, style) of the marks of one row; all digits share one entry."""
    for mark in marks:
        if mark.legend.startswith("digits"):
            yield "", mark.legend, "yellow"
        elif mark.legend or mark.sign in "=.":
            yield mark.sign, mark.legend or "as in the base", STYLES[mark.style]


def _speed_lines(speeds: Sequence[Speed]) -> Lines:
    """Decode speed bounds by context length; a cell in which the base does not fit in memory has none."""
    by_context: dict[int, list[Speed]] = {}
    for speed in speeds:
        if math.isfinite(speed.bound):
            by_context.setdefault(speed.context, []).append(speed)
    for context, cells in by_context.items():
        batches = " / ".join(str(cell.batch) for cell in cells)
        bounds = " / ".join(f"x{cell.bound:.2f}" for cell in cells)
        said = f" decode bound  {tokens_text(context)}, batch {batches}:  {bounds}   "
        yield Paragraph(f"{said}predicted from bytes and FLOPs, not measured", 15)


def _judge_lines(plan: Plan) -> Lines:
    if plan.eval is None or plan.eval.seq is None:
        return
    texts = " and ".join(map(printable, plan.eval.data))
    each = " each" if len(plan.eval.data) > 1 else ""
    said = f" judged on: {texts}, {tokens_text(plan.eval.tokens)} tokens{each} in sequences of {tokens_text(plan.eval.seq)}"
    tasks: tuple[Asked, ...] = (*plan.eval.needle, *plan.eval.tasks)
    asked = ", ".join(printable(task_name(task)) for task in tasks)
    on = plan.measured_on
    if on is not None and on.digest is not None and plan.eval.seq > max(on.seq, JUDGED):
        said += f" (layers were chosen on {tokens_text(on.seq)}, and longer text may lose more: to choose on it, "
        said += f"`measure {{ seq = {tokens_text(plan.eval.seq)} }}`)"
    limit = f", {plan.eval.limit} questions each" if plan.eval.limit is not None and plan.eval.tasks else ""
    yield Paragraph(said + (f"; asked {asked}{limit}" if asked else ""), 12)


def _estimate_lines(plan: Plan) -> Lines:
    found = plan.estimate
    if found is None or not plan.changed:
        return
    work = (("healing", found.heal_seconds), ("judging", found.judge_seconds))
    parts = [f"{name} {duration_text(seconds)}" for name, seconds in work if seconds]
    said = f" apply takes about: {', '.join(parts)}; " if parts else " apply takes about: "
    said += f"{bytes_text(found.memory_bytes)} of memory"
    if found.machine_bytes is not None and found.memory_bytes > found.machine_bytes:
        said += f" (this machine has {bytes_text(found.machine_bytes)}: healing computes layers twice, or is refused)"
    said += f", {bytes_text(found.disk_bytes)} of disk"
    if found.passes is not None and 1 < found.passes <= MANY:
        said += f"; healing passes about {found.passes:.1f} times over its text"
    yield Paragraph(said, 20)


def _serving_lines(plan: Plan) -> Lines:
    """The engines that can serve the result, and the obstacle for each of the others."""
    said = (
        f"{item.engine} ({', '.join(item.formats)})"
        if item.formats
        else f"not {item.engine}: {printable(item.obstacle or '')}"
        for item in plan.serving
    )
    if plan.serving:
        yield Paragraph(f"Can be served by: {'; '.join(said)}.", 2)


def _loss_lines(plan: Plan, ascii_: bool) -> Lines:
    loss = plan.loss
    if not plan.changed:
        return
    if loss.rise is None:
        yield Paragraph(" loss: of the whole changed model not measured yet", 7, "yellow")
        return
    pm = "+-" if ascii_ else "±"
    said = f" loss: {signed_text(loss.rise, pm)} nats/token measured jointly"
    said += ", before healing" if plan.heal is not None else ""
    if loss.sum is not None:
        said += f" (sum of the single layers {loss.sum:+.3g}: do not trust it)"
    yield Paragraph(said, 7)
    others = "".join(f", {printable(joint_text(name, score, pm))}" for name, score in loss.others.items())
    if loss.base_nll is not None:
        arrow = "->" if ascii_ else "→"
        nats = (loss.base_nll, loss.base_nll + loss.rise.value)
        # A power of e where it is too large, as for a broken model.
        was, becomes = (f"{math.exp(nll):.2f}" if nll < 20 else f"e^{nll:.0f}" for nll in nats)
        seq = plan.measured_on.seq if plan.measured_on is not None else 0
        # The first token of a sequence is not predicted.
        on = f"{loss.tokens // (seq - 1)} x {tokens_text(seq)}" if seq > 1 else tokens_text(loss.tokens)
        yield Paragraph(f"       perplexity {was} {arrow} {becomes} on {on} tokens{others}", 7)


def _recall_lines(plan: Plan, ascii_: bool) -> Lines:
    found = plan.recall
    if found is None:
        return
    yield Paragraph(f" recall: {printable(found.text('+-' if ascii_ else '±'))}", 9)
    if found.left_out:
        said = ", ".join(f"{printable(name)} {found.kinds[name].base}" for name in found.left_out)
        yield Paragraph(f"         left out, as the base finds too few: {said}", 9, "dim")


def _patch_lines(plan: Plan) -> Lines:
    on = plan.measured_on
    count = sum(len(patch_texts(layer.weights)) for layer in plan.layers)
    if on is None or on.patches is None or not count:
        return
    fitted = f"{count}, fitted on {printable(on.data)}, times {on.patches.factor:g}"
    kl = f"the KL to the base is {on.patches.kl:.3g} nats/token, without them {on.patches.kl_without:.3g}"
    yield Paragraph(f" patches: {fitted}; on {printable(on.check or '')} {kl}", 10)


def _heal_lines(plan: Plan) -> Lines:
    heal = plan.heal
    if not plan.changed:
        return
    if heal is None:
        yield Text(" heal: nothing, the damage stays", style="yellow")
        return
    names = {"full": "full weights", "sinks": "learned sinks and maps alone"}
    for stage in heal.runs:
        method = f"lora(rank={stage.method.rank})" if stage.method.node == "lora" else names[stage.method.node]
        title = f" heal: {stage.name} with " if heal.stages else " heal: "
        said = f"{title}{method}, {tokens_text(stage.tokens)} tokens of {printable(str(stage.data))}{_beside(stage)}"
        yield Paragraph(said, 7)


def _beside(stage: Stage) -> str:
    """The steps of a stage, its learning rate, and its settings that are not the default."""
    shown = [f"{plural(stage.steps, 'step')} of {stage.batch} x {tokens_text(stage.seq)}", f"lr {stage.lr:g}"]
    for name in ("schedule", "warmup", "teacher", "documents", "loss_on", "seed"):
        value = getattr(stage, name)
        if value != HealSettings.model_fields[name].get_default():
            shown.append(f"{name} {value}")
    return ", " + ", ".join(shown)


def _finding_lines(plan: Plan) -> Lines:
    for finding in plan.findings:
        if finding.code == "LB325":  # already in the closing line
            continue
        file = f"{printable(finding.file)}, " if finding.file else ""
        where = f" ({file}line {finding.line})" if finding.line is not None else ""
        yield from _finding(finding, where)


def _finding(finding: Finding | Diagnostic, where: str = "") -> Lines:
    said = f" {finding.severity}[{finding.code}] {printable(finding.message)}{where}"
    yield Paragraph(said, 4, _SEVERITY_STYLES[finding.severity])
    for text in finding.help:
        yield Paragraph(f"    help: {printable(text)}", 10)


def render_targets(targets: Sequence[Target], console: Console) -> None:
    """Print one paragraph per engine: every finding with its code and help."""
    for target in targets:
        _write(console, [Text(), *_gain_lines(target), *(item for found in target.findings for item in _finding(found))])


def _gain_lines(target: Target) -> Lines:
    """What a device holds and computes of both models at most."""
    if target.gain is None:
        return
    settings, base, changed = (target.gain[name] for name in ("settings", "base", "changed"))
    ctx = tokens_text(settings["context"])
    title = f" on {target.device}, at most"
    yield Text(f"{title:<40}{'before':>12}{'after':>12}{'ratio':>9}", style="bold")
    for key, name in (
        ("requests", f"requests of {ctx} that fit in its memory"),
        ("written_by_one", "tokens a second written by one"),
        ("written", "tokens a second written by all that fit"),
        ("read", f"tokens a second read, of prompts of {ctx}"),
    ):
        was, becomes = base[key], changed[key]
        shown = ("none" if value is None else f"{value:,.0f}" for value in (was, becomes))
        ratio = f"x{becomes / was:.2f}" if was and becomes else ""
        yield Text(f" {name:<39}" + "".join(f"{each:>12}" for each in shown) + f"{ratio:>9}")
    rates = f"{settings['bandwidth'] / 1e12:.3g} TB/s and {settings['flops'] / 1e12:.4g} TFLOP/s"
    said = (
        f" bounds from bytes and FLOPs: weights ({bytes_text(base['weights'])}, then {bytes_text(changed['weights'])}) and "
    )
    said += f"caches are read at the data sheet's {rates}, each once a step; nothing was measured"
    yield Paragraph(said, 2, "dim")


def _closing(plan: Plan) -> Lines:
    stays = "" if plan.changed else " The model stays as it is."
    yield Paragraph(f"Plan: {printable(plan.summary)}.{stays}", 6, "bold")
    changed = len(plan.changed)
    lacks = [*([] if plan.heal is not None else ["heals nothing"]), *([] if plan.asserts else ["gates nothing"])]
    if changed and lacks:
        said = f"It changes {changed} of {plural(len(plan.layers), 'layer')}, {' and '.join(lacks)}."
        yield Text(said, style="bold yellow")
    if plan.applyable:
        return
    failed = [item.text for item in plan.asserts if item.failed]
    if failed:
        said = f"{printable('; '.join(failed))} {'does' if len(failed) == 1 else 'do'} not hold"
        yield Text(f"Not applyable: {said}.", style="bold red")
    elif plan.errored:
        yield Text("Not applyable: errors were found.", style="bold red")
    elif not plan.complete:
        yield Text("Not applyable yet: the whole changed model is not measured.", style="bold yellow")
