"""`lbdsl report`: an artifact's record as one HTML file: no script, nothing from the network, its charts as SVG.

Below the strips of the plan it is the model card, so that both say the same. All text is escaped: it may be anybody's.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from lbdsl.artifact.card import card_text, drawings, names_of
from lbdsl.artifact.record import Record
from lbdsl.core.pictures import Target, svg_of
from lbdsl.core.printed import visible
from lbdsl.core.units import bytes_text, tokens_text
from lbdsl.layer.difference import changes_text
from lbdsl.plan.schema import LayerPlan, Plan
from lbdsl.plan.words import signed_text
from lbdsl.report.bench import draw_bench
from lbdsl.report.strip import Scale, mark_rows

TEMPLATE = Path(__file__).with_name("page.html")
DARK = {"#1f5fa8": "#7db2ee", "#b5542b": "#e89a76", "#7a9a4b": "#93c266", "#444444": "#9aa5af"}
"""Colours of the charts, and what they are on a dark page."""


@dataclass(frozen=True)
class Square:
    """One layer in one row of the strips: its sign and style, or the share of a bar's height, and what it says."""

    said: str
    sign: str = ""
    style: str = ""
    height: float | None = None


GENERATOR = '<meta name="generator" content="lbdsl">'


def is_page(path: Path) -> bool:
    """Whether a file is such a page."""
    return path.is_file() and GENERATOR in path.read_text(encoding="utf-8", errors="replace")[:500]


def page_of(record: Record) -> str:
    """The page of an artifact."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    plan = record.plan
    pictures = drawings(record)
    timed = (record.bench or {}).values()
    pictures |= {f"speed-{number}.svg": partial(draw_bench, benched) for number, benched in enumerate(timed)}
    title, text = _body(record, pictures)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        generator=Markup(GENERATOR),
        title=title,
        accepted=record.status == "accepted",
        figures=list(_figures(record)),
        layers=len(plan.layers),
        strips=dict(_strips(plan)),
        rest=_html(text, pictures),
        code_light=_code_style("default", "@media screen"),
        code_dark=_code_style("github-dark", "@media screen and (prefers-color-scheme: dark)"),
    )


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(value)


def _body(record: Record, pictures: dict[str, Any]) -> tuple[str, str]:
    """The card's title and its text, with the charts of speed above their tables."""
    _, _, text = card_text(record).partition("\n# ")
    _, _, text = text.partition("\n")
    model, recipe = names_of(record.plan)
    if charts := "\n".join(f"![speed]({name})" for name in pictures if name.endswith(".svg")):
        text = text.replace("\n## Speed\n", f"\n## Speed\n\n{charts}\n", 1)
    return f"{model}, compressed by {recipe}", text


def _figures(record: Record) -> Iterator[tuple[str, str, str]]:
    """What a reader looks for first: a name, the finished model's figure, and what it is beside."""
    plan, costs = record.plan, record.plan.costs
    context = max((each for each in plan.contexts if each <= plan.model.facts.positions), default=None)
    caches = {} if context is None else {f"cache of {tokens_text(context)} tokens": costs.kv_bytes[context]}
    for name, cost in {**caches, "weights": costs.weights}.items():
        if cost.before:
            yield name, f"{100 * (cost.share - 1):+.0f} %", f"{bytes_text(cost.before)} → {bytes_text(cost.after)}"
    judged = record.evaluation or {}
    for source in judged.get("sources", [judged] if judged else []):
        if rise := source["scores"].get("ppl_increase"):
            yield f"perplexity on {source['data']}", _percent(rise["value"], rise["stderr"], "+.1f"), "over the base's"
    for task in judged.get("tasks", ()):
        yield task["name"], _percent(task["recovery"], task["stderr"]["recovery"], ".0f"), "of what the base finds"
    for benched in (record.bench or {}).values():
        best = max(benched["cells"], key=lambda cell: cell["batch"] * cell["context"])
        yield f"{best['metric']}, {benched['engine']}", f"x{best['ratio']:.2f}", f"{best['low']:.2f} to {best['high']:.2f}"


def _percent(share: float | None, error: float | None, how: str) -> str:
    if share is None:
        return "not a number"
    return f"{100 * share:{how}}" + ("" if error is None else f" ±{100 * error:{how.lstrip('+')}}") + " %"


def _strips(plan: Plan) -> Iterator[tuple[str, list[Square]]]:
    """The rows of the plan's picture, then a row of bars for each score, on a logarithmic scale."""
    said = [_said(layer) for layer in plan.layers]
    for row, _ in mark_rows({"": plan}):
        yield row.label, [Square(*each) for each in zip(said, row.marks, row.styles, strict=True)]
    for key in sorted({key for layer in plan.layers for key in layer.scores}):
        found = [layer.scores.get(key) for layer in plan.layers]
        scale = Scale.of([score.value for score in found if score is not None], "")
        bars = []
        for layer, score in enumerate(found):
            height = None if score is None or scale is None else 0.06 + 0.94 * scale.fraction(score.value)
            value = "" if score is None else f": {signed_text(score, '±')}"
            bars.append(Square(f"layer {layer}{value}", height=height))
        yield key, bars


def _said(layer: LayerPlan) -> str:
    changes = ", ".join(changes_text(layer.before, layer.after, "→")) or "as it was"
    return f"layer {layer.index}: {changes}" + (f" ({layer.reason})" if layer.reason else "")


def _html(text: str, pictures: dict[str, Callable[[Target], None]]) -> Markup:
    """Markdown as HTML: pictures that are drawn here as SVG, other images as their words, recipes in colours."""

    def image(tokens: Any, index: int, options: Any, env: Any) -> str:
        draw = pictures.get(str(tokens[index].attrs["src"]))
        if draw is None:
            return str(Markup.escape(tokens[index].content))
        written = io.StringIO()
        draw(written)
        svg = svg_of(written)
        for light, dark in DARK.items():
            svg = svg.replace(light, f"light-dark({light}, {dark})")
        return f"<figure>{svg}</figure>"

    reader = MarkdownIt("commonmark", {"html": False, "highlight": _recipe}).enable("table")
    reader.add_render_rule("image", lambda _, *words: image(*words))
    return Markup(reader.render(text))


def _recipe(code: str, language: str, _: Any) -> str:
    return highlight(code, get_lexer_by_name(language), HtmlFormatter(nowrap=True)) if language == "lbr" else ""


def _code_style(style: str, where: str) -> Markup:
    rules = HtmlFormatter(style=style).get_token_style_defs("code")
    return Markup(f"{where} {{ {' '.join(rules)} }}")
