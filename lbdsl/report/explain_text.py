"""Pages of `explain` as plain text or with terminal colours."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from lbdsl.core.codes import code_for
from lbdsl.report.diagnostics import Style, diagnostics_text
from lbdsl.report.explain import Page, topics_by_kind

_INDENT = "    "
_wrapped = partial(textwrap.wrap, subsequent_indent="  ", break_long_words=False)


def pages_text(pages: Sequence[Page], style: Style) -> str:
    """All pages, separated by blank lines."""
    return "\n".join(_page(page, style) for page in pages)


def _page(page: Page, style: Style) -> str:
    head = f"{page.name}: {page.title}" if page.kind == "code" else f"{page.name} ({page.kind})"
    lines = [style.paint("bold", line) for line in textwrap.wrap(head, style.width)]
    if page.form:
        form = _wrapped(page.form, style.width - len(_INDENT))
        lines += ["", *(_INDENT + style.paint("gutter", line) for line in form)]
    if page.kind != "code" and page.title:
        lines += ["", *textwrap.wrap(page.title, style.width)]
    if page.facts:
        lines.append("")
    for name, text in page.facts:
        lead = f"{name}: "
        first, *rest = _wrapped(lead + text, style.width)
        lines += [style.paint("help", first[: len(lead)]) + first[len(lead) :], *rest]
    if page.failing:
        lines += ["", style.paint("error", "This fails:"), "", *_indented(page.failing, style)]
        if page.findings:
            narrow = replace(style, width=style.width - len(_INDENT))
            shown = diagnostics_text(page.findings[:1], narrow).rstrip("\n")
            lines += ["", *(_INDENT + line if line else "" for line in shown.splitlines())]
    if page.fixed:
        lines += ["", style.paint("help", "This is right:"), "", *_indented(page.fixed, style)]
    return "\n".join(lines) + "\n"


def topics_text(style: Style) -> str:
    """Every topic, by kind."""
    lines: list[str] = []
    for kind, names in topics_by_kind():
        lines.append(style.paint("bold", kind))
        if kind == "codes":
            lines += [f"  {code}  {code_for(code).title}" for code in names]
        else:
            lines += _wrapped(", ".join(names), style.width, initial_indent="  ", break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _indented(text: str, style: Style) -> list[str]:
    """An example's lines, indented; lines wider than the page are cut."""
    room = style.width - len(_INDENT)
    dots = "…" if style.unicode else "..."
    return [_INDENT + (line if len(line) <= room else line[: room - len(dots)] + dots) for line in text.splitlines()]
