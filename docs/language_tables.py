"""Tables of the language reference and of the errors page, from grammar, registries, settings and codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from lbdsl.actions import actions
from lbdsl.api.explaining import example_findings
from lbdsl.core.codes import Code, all_codes
from lbdsl.core.resources import resource_folder
from lbdsl.core.units import Unit
from lbdsl.editor.pages import FUNCTIONS
from lbdsl.language import words
from lbdsl.language.grammar import GRAMMAR
from lbdsl.language.limits import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_RULES, MAX_TOKENS
from lbdsl.metrics import Of, metrics_of
from lbdsl.recipe import variables
from lbdsl.recipe.schema import FACTS
from lbdsl.recipe.settings import SETTINGS
from lbdsl.report.diagnostics import Style, diagnostics_text
from lbdsl.report.explain import Page, default_of, pages_of

BANDS = {
    "LB0": "Text that does not parse",
    "LB1": "Names, types, units and phases",
    "LB2": "Rules against each other",
    "LB3": "A recipe against a model, its measurements and plans",
    "LB4": "Models, texts, files and artifacts",
    "LB5": "Exports and engines",
}


def table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def statements() -> str:
    return table(
        ("statement", "meaning"),
        ((f"`{words.keywords()[word].form}`", page("keyword", word).title) for word in words.statements()),
    )


def keywords() -> str:
    pages = [page("keyword", word) for word in sorted(words.keywords())]
    return table(
        ("keyword", "meaning", "example"),
        ((f"`{found.name}`", found.title, dict(found.facts)["Example"]) for found in pages),
    )


def page(kind: str, name: str) -> Page:
    return next(found for found in pages_of(name) if found.kind == kind)


def described(kind: str, names: Iterator[str]) -> str:
    """One section for each action or metric, from its docstring."""
    parts = []
    for name in names:
        found = page(kind, name)
        lines = [f"### `{found.form or name}`\n", found.title + "\n"]
        lines += [
            f"- **{head}**: {text}" if head[0].isupper() or head.startswith("In ") else f"- `{head}`: {text}"
            for head, text in found.facts
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def action_sections() -> str:
    return described("action", iter(actions()))


def metric_sections() -> str:
    return described("metric", iter(["sensitivity", *metrics_of(Of.LAYER)]))


def finished_sections() -> str:
    return described("metric", (name for name in metrics_of(Of.FINISHED) if name not in metrics_of(Of.LAYER)))


def values() -> str:
    return table(
        ("value", "meaning"),
        ((f"`{page('value', name).form}`", page("value", name).title) for name in sorted(FUNCTIONS)),
    )


def facts() -> str:
    def unit(kind: str, of: Unit) -> str:
        return of.value if kind == "number" and of is not Unit.NONE else kind

    return table(("fact", "is"), ((f"`model.{name}`", unit(kind, of)) for name, (kind, of) in FACTS.items()))


def types() -> str:
    return table(
        ("type", "values"), ((f"`{name}`", page("type", name).title.rstrip(".")) for name in sorted(variables.TYPES))
    )


def settings() -> str:
    return table(
        ("block", "setting", "default", "meaning"),
        (
            (f"`{block}`", f"`{key}`", f"`{default_of(block, key)}`" if default_of(block, key) else "", row.meaning)
            for block, rows in SETTINGS.items()
            for key, row in rows.items()
        ),
    )


def limits() -> str:
    rows = [
        ("size of a recipe", f"{MAX_BYTES // 2**20} MiB"),
        ("tokens", f"{MAX_TOKENS:,}"),
        ("rules", f"{MAX_RULES:,}"),
        ("nesting: brackets, `not` and signs together", str(MAX_DEPTH)),
        ("parts of an expression with a name, and their nesting", f"{variables.MAX_SIZE}, {variables.MAX_DEPTH}"),
        ("digits of a number", str(MAX_DIGITS)),
    ]
    return table(("what", "at most"), iter(rows))


def grammar() -> str:
    """The productions of the grammar file, without the terminals."""
    text = (resource_folder("grammars") / GRAMMAR).read_text(encoding="utf-8")
    rules = text[text.index("file: ") : text.index("// Terminals")].rstrip()
    return f"```text\n{rules}\n```\n"


def code_list() -> str:
    return table(("code", "title"), ((f"[{code.id}](errors.md#{code.id.lower()})", code.title) for code in all_codes()))


def errors() -> str:
    parts = []
    for band, title in BANDS.items():
        parts.append(f"## {title}\n")
        parts += [_error(code) for code in all_codes() if code.id.startswith(band)]
    return "\n".join(parts)


def _error(code: Code) -> str:
    lines = [f"### {code.id}\n", f"**{code.title}.** {code.reason}\n"]
    if code.exit_code != 1:
        lines.append(f"Exit code {code.exit_code}.\n")
    if code.example:
        shown = diagnostics_text(example_findings(code)[:1], Style(100, colour=False, unicode=False)).rstrip()
        lines.append(f"```text\n{_cut(code.example)}\n```\n\n```text\n{shown}\n```\n")
        lines.append(f"Right:\n\n```text\n{code.fixed}\n```\n")
    return "\n".join(lines)


def _cut(text: str) -> str:
    return "\n".join(line if len(line) <= 100 else line[:97] + "..." for line in text.splitlines())


LANGUAGE_TABLES: Mapping[str, Callable[[], str]] = {
    "statements": statements,
    "keywords": keywords,
    "actions": action_sections,
    "metrics": metric_sections,
    "finished": finished_sections,
    "values": values,
    "facts": facts,
    "types": types,
    "settings": settings,
    "limits": limits,
    "grammar": grammar,
    "codes": code_list,
    "errors": errors,
}
