"""The rows of benchmarks/results: what pages show, computed by commits of this history without changes beside them."""

from __future__ import annotations

import pytest

from benchmarks import check


def test_pages_show_every_table_as_its_rows_are() -> None:
    assert list(check.in_pages()) == []


def test_rows_are_of_tables_and_of_trees_without_changes() -> None:
    assert list(check.of_tables()) == []


def test_the_commits_of_rows_are_in_the_history() -> None:
    history = check.commits()
    if isinstance(history, str):
        pytest.skip(f"{history}: the commits of rows cannot be looked up")
    assert list(check.of_commits(history)) == []
