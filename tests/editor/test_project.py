"""Which model an editor's hints are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.editor.hints import configured_model, facts_of


def test_the_first_that_names_a_model_is_asked(tmp_path: Path) -> None:
    (tmp_path / "lbdsl.toml").write_text('[lsp]\nmodel = "m"\n', encoding="utf-8")
    assert configured_model("flag", "editor", "default", tmp_path) == "flag"
    assert configured_model(None, "editor", "default", tmp_path) == "editor"
    assert configured_model(None, " ", "default", tmp_path) == "default"
    assert configured_model(None, None, None, tmp_path) == "m"
    assert configured_model(None, 5, None, None) is None


def test_a_relative_path_starts_at_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert configured_model(None, "m", None, tmp_path) == str(tmp_path / "m")
    assert configured_model(None, "org/name", None, tmp_path) == "org/name"
    assert configured_model(None, "a\0b", None, tmp_path) == "a\0b"


@pytest.mark.parametrize("text", ["[lsp]\nmodel = 5\n", "lsp = 3\n", "[lsp\n", "[plan]\nctx = [1]\n", "\xff"])
def test_a_project_file_without_a_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "lbdsl.toml").write_bytes(text.encode("latin-1"))
    assert configured_model(None, None, None, tmp_path) is None
    assert configured_model(None, None, None, tmp_path / "none") is None


def test_a_model_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "a\0b", str(tmp_path)):
        with pytest.raises(LbdslError):
            facts_of(name)
