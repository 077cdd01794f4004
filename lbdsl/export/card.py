"""The model card of an export that is a folder: its origin, how to load it, and its quality."""

from __future__ import annotations

from textwrap import indent

from lbdsl.actions.patches import patch_texts
from lbdsl.artifact.card import base_name, names_of, needed
from lbdsl.artifact.record import Record, healing_stages
from lbdsl.core.printed import as_code, as_code_block, as_markdown, as_row, as_yaml, visible
from lbdsl.core.units import count_text, ranges_text


def export_card(record: Record, kind: str, how_to_load: str, *, in_transformers: bool) -> str:
    """README.md of an export, from the artifact's record; `in_transformers`: whether that loads it."""
    plan = record.plan
    model, recipe = names_of(plan)
    lines = [
        "---",
        f"base_model: {as_yaml(base_name(plan.model))}",
        "tags: [lbdsl, compressed]",
        "---",
        "",
        f"# {as_markdown(model)}, compressed by {as_code(recipe)}, as {kind}",
        "",
    ]
    if record.status != "accepted":
        lines += ["> **Rejected.** A quality gate of the recipe failed.", ""]
    lines += [
        f"Exported by lbdsl {as_markdown(record.lbdsl_version)} from an artifact of the plan `{plan.digest[:16]}`. "
        "Load it with",
        "",
        indent(visible(how_to_load), "    "),
        "",
        *(needed(record) if in_transformers else []),
        "## Layers",
        "",
        "| layers | what became of them |",
        "|---|---|",
    ]
    done: dict[str, list[int]] = {}
    for layer in plan.layers:
        actions = " + ".join([*(planned.action.text() for planned in layer.acting), *patch_texts(layer.weights)])
        done.setdefault(actions, []).append(layer.index)
    lines += [as_row((ranges_text(layers), f"`{actions}`" if actions else "kept")) for actions, layers in done.items()]
    lines += ["", f"{count_text(plan.after.params)} parameters (base: {count_text(plan.before.params)}).", ""]
    if record.evaluation is not None:
        perplexity = record.evaluation["perplexity"]
        values = (perplexity[model] for model in ("base", "artifact"))
        base, this = (f"{value:.2f}" if value is not None else "not a number" for value in values)
        lines += [f"Perplexity on {as_code(record.evaluation['data'])}: base {base}, this model {this}.", ""]
    healed = record.heal if record.heal and any(stage.get("kept") != 0 for stage in healing_stages(record.heal)) else None
    left_out = "Healing was no gain on text apart, and is left out." if record.heal else "Not healed."
    lines += [f"Healed on {healed['tokens']} tokens of {as_code(healed['data'])}." if healed else left_out, ""]
    return "\n".join([*lines, "## Recipe", "", as_code_block(plan.recipe.text, "lbr"), ""])
