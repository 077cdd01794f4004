"""Several plans of one model one under the other: their layers as strips, their costs and joint values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lbdsl.core.digest import short
from lbdsl.core.pictures import Target, picture
from lbdsl.core.printed import printable
from lbdsl.core.units import tokens_text
from lbdsl.cost.cost import model_cost
from lbdsl.layer.difference import changes_text
from lbdsl.plan.schema import Plan
from lbdsl.plan.words import judged_texts, signed_text
from lbdsl.report.console import ascii_only, write_line
from lbdsl.report.strip import mark_rows, strip_lines


def render_compared(plans: Mapping[str, Plan], console: Console, context: int | None = None) -> None:
    """Print plans, by label; there is one or more. Costs are at `context` tokens (None: see `_context`)."""
    ascii_ = ascii_only(console)
    rows = [row for row, _ in mark_rows({printable(label): plan for label, plan in plans.items()})]
    for line in (*strip_lines(rows, console.width), Text(), *_table(plans, "+-" if ascii_ else "±", context)):
        write_line(console, line)


def render_diff(plans: Mapping[str, Plan], console: Console, judged: Mapping[str, Mapping[str, Any]]) -> None:
    """Print two plans, and where they differ. `judged`: the evaluations of those that are artifacts."""
    render_compared(plans, console)
    arrow = "->" if ascii_only(console) else "→"
    first, second = plans.values()
    console.print()
    for label, evaluation in judged.items():
        for text in judged_texts(evaluation):
            console.print(f" {printable(f'{label}, judged on {text}')}", soft_wrap=True)
    found = [*differences(first, second, arrow)]
    for line in found:
        console.print(f" {printable(line)}", soft_wrap=True)
    if not found:
        other = "layers and settings are the same; recipes or scores differ"
        console.print(f" {'the plans are the same' if first.digest == second.digest else other}")


def differences(first: Plan, second: Plan, arrow: str) -> Iterator[str]:
    """`layer 3: window 256 → full`, for each layer that becomes another; the models, if they are two;
    `heal: tokens 100000 → 200000`, for each block; and asserts that only one has."""
    for one, other in zip(first.layers, second.layers, strict=True):
        changes = [*changes_text(one.after, other.after, arrow)]
        chosen = [", ".join(filter(None, (each.action.chosen for each in layer.acting))) for layer in (one, other)]
        if all(chosen) and chosen[0] != chosen[1]:
            changes.append(f" {arrow} ".join(chosen))
        if changes or one.weights != other.weights:
            yield f"layer {one.index}: {', '.join(changes) or 'other weights'}"
    if first.model.digest != second.model.digest:
        models = (f"{plan.model.source}@{short(plan.model.digest, 4)}" for plan in (first, second))
        yield f"model: {f' {arrow} '.join(models)}"
    for block in ("measure", "heal", "eval"):
        parts = (getattr(plan, block) for plan in (first, second))
        was, becomes = ({} if part is None else part.model_dump(mode="json") for part in parts)
        changed = [name for name in {**was, **becomes} if was.get(name) != becomes.get(name)]
        if changed and (not was or not becomes):
            yield f"{block}: only in the {'first' if was else 'second'}"
        elif changed:
            yield f"{block}: " + ", ".join(f"{name} {was.get(name)} {arrow} {becomes.get(name)}" for name in changed)
    texts = [[item.text for item in plan.asserts] for plan in (first, second)]
    for own, others, which in ((*texts, "first"), (*texts[::-1], "second")):
        yield from (f"assert {text}: only in the {which}" for text in own if text not in others)


def draw_front(plans: Mapping[str, Plan], what: str, path: Target, at: int | None = None) -> None:
    """Draw the joint KL of each plan over its cache, as a share of the base's, and the answers that it finds, where any was
    asked."""
    asked = any(plan.recall is not None for plan in plans.values())
    with picture(path, 1 + asked, figsize=(10 if asked else 6, 4)) as (figure, axes):
        context = at or _context(plans)
        kls = {label: plan.loss.scores.get("kl") for label, plan in plans.items()}
        # A plan that changes nothing has no loss.
        joint = {label: (kl.value, kl.stderr or 0.0) if kl is not None else (0.0, 0.0) for label, kl in kls.items()}
        found = {
            label: (100 * plan.recall.found / plan.recall.base, 0.0)
            for label, plan in plans.items()
            if plan.recall is not None
        }
        panels = (
            ("KL to the base before healing, nats/token", joint),
            ("answers found before healing, % of the base's", found),
        )
        for axis, (name, points) in zip(axes if asked else [axes], panels, strict=False):
            for label, (value, error) in points.items():
                share = 100 * _cache_share(plans[label], context)
                axis.errorbar(share, value, yerr=error, fmt="o", color="#1f5fa8", capsize=2)
                axis.annotate(label, (share, value), textcoords="offset points", xytext=(0, 6), ha="center")
            axis.set_xlabel(f"cache at {tokens_text(context)} tokens, % of the base's")
            axis.set_ylabel(name)
            # Room for the labels.
            axis.margins(x=0.2)
        figure.suptitle(what)


def _context(plans: Mapping[str, Plan]) -> int:
    """The longest context within the models' positions that all plans have; without one, the fewest positions."""
    shared = set.intersection(*(set(plan.contexts) for plan in plans.values()))
    positions = min(plan.model.facts.positions for plan in plans.values())
    return max((context for context in shared if context <= positions), default=positions)


def _cache_share(plan: Plan, context: int) -> float:
    """What is left of the base's cache."""
    facts = plan.model.facts
    return model_cost(facts, plan.specs).kv_bytes(context) / (facts.kv_bytes(context) or 1)


def _table(plans: Mapping[str, Plan], pm: str, at: int | None) -> Iterator[Text]:
    context = at or _context(plans)
    width = max(len("plan"), *(len(printable(label)) for label in plans))
    head = f"KV@{tokens_text(context)}"
    recalls = f"{'recall':>10}" if any(plan.recall is not None for plan in plans.values()) else ""
    yield Text(
        f" {'plan':<{width}}{head:>10}{'weights':>10}{'FLOPs':>10}{'nll':>18}{'KL':>18}{recalls}  asserts", style="dim"
    )
    for label, plan in plans.items():
        facts = plan.model.facts
        shares = (
            _cache_share(plan, context),
            plan.after.weights / plan.before.weights,
            model_cost(facts, plan.specs).flops(context) / facts.cost.flops(context),
        )
        nll = signed_text(plan.loss.rise, pm)
        kl = signed_text(plan.loss.scores.get("kl"), pm)
        failed = sum(item.failed for item in plan.asserts)
        said = "" if not plan.asserts else f"{failed} of {len(plan.asserts)} fail" if failed else "none fails"
        cells = "".join(f"{100 * share:>8.1f} %" for share in shares)
        # Of what the base finds.
        left = f"{100 * plan.recall.found / plan.recall.base:.0f} %" if plan.recall is not None else ""
        recall = f"{left:>{len(recalls)}}"
        yield Text(f" {printable(label):<{width}}{cells}{nll:>18}{kl:>18}{recall}  {said}".rstrip())
