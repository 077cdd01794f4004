"""Hold the rows of benchmarks/results against pages, history and code: `python -m benchmarks.table --check`.

Findings are of tables in pages that are not what their rows say, rows that no table has, rows of commits that are not in
the history, or of trees with changes. Which rows are older than the code that they measure is a list, not a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.table import Table

Rows = Mapping[str, Mapping[str, Any]]


def check() -> int:
    """Print findings and the list; 1 if there are findings."""
    found = [*in_pages(), *of_tables()]
    history = commits()
    if isinstance(history, str):
        print(
            f"not checked, as {history}: whether rows' commits are in the history, and which rows are older than their code"
        )
    else:
        found += of_commits(history)
        print("\n".join(["older than the code that they measure:", *(f"  {line}" for line in older())]))
    print("\n".join([f"{len(found)} findings", *(f"  {line}" for line in found)]))
    return 1 if found else 0


def kept() -> Iterator[tuple[str, Table, Rows]]:
    for name in table.names():
        yield name, table.table_of(name), table.rows_of(name)


def in_pages() -> Iterator[str]:
    """Generated tables that are not what their rows say, and rows that no page shows."""
    from docs.generate import GENERATED, PAGES
    from docs.tables import RESULTS

    shown = set()
    for page in PAGES:
        for block in GENERATED.finditer(page.read_text(encoding="utf-8")):
            if block["what"] in RESULTS:
                shown.add(block["what"])
                if RESULTS[block["what"]]() != block["text"]:
                    yield f"{page.name}: the table {block['what']} is not what its rows say (`make docs` writes it)"
    yield from (f"no page shows the table {name}" for name in sorted(RESULTS.keys() - shown))


def of_tables() -> Iterator[str]:
    """Rows that no table has, rows of trees with changes, and code that is not there."""
    for name, its, rows in kept():
        yield from (f"{name}/{key}: no row of the table" for key in rows.keys() - {row.key for row in its.rows})
        yield from (
            f"{name}: measures {path}, which is not there" for path in its.measures if not Path(table.ROOT, path).exists()
        )
        for key, row in rows.items():
            if any(each["dirty"] for each in versions_of(row)):
                yield f"{name}/{key}: of a tree with changes"


def versions_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of the row, and of what it read that was computed before."""
    return [each["versions"] for each in (row, *row.get("used", ()))]


def commits() -> set[str] | str:
    """The commits of the history, or why they are not known."""
    top = table.git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != table.ROOT:
        return "this is no checkout of git"
    if table.git("rev-parse", "--is-shallow-repository") == "true":
        return "this is a shallow clone"
    return set(table.git("rev-list", "HEAD").split())


def of_commits(history: set[str]) -> Iterator[str]:
    for name, _, rows in kept():
        for key, row in rows.items():
            for commit in {each["commit"] for each in versions_of(row)} - history:
                yield f"{name}/{key}: its commit {commit[:7] or '(none)'} is not in the history"


def older() -> Iterator[str]:
    """For each table, how many rows are older than its code. A table one of whose rows was run since, and was equal within
    its error, counts as current."""
    unknown = 0
    for name, its, rows in kept():
        unknown += sum("used" not in row for row in rows.values())
        since = {
            commit: int(table.git("rev-list", "--count", f"{commit}..HEAD", "--", *its.measures) or -1)
            for commit in {each["commit"] for row in rows.values() for each in versions_of(row)}
        }
        behind = [count for row in rows.values() if (count := max(since[each["commit"]] for each in versions_of(row)))]
        if behind:
            yield f"{name}: {len(behind)} of {len(rows)} rows (commits since: up to {max(behind)})"
    if unknown:
        yield f"of all rows {unknown} do not say what they read that an older commit had computed"
