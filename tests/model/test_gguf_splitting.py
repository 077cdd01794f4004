"""A tokenizer read from a GGUF file splits text as the file says, not as transformers takes for granted."""

from __future__ import annotations

import json

import pytest

from lbdsl.core.diagnostic import LbdslError
from lbdsl.export.gguf_tokenizer import pre_tokenizer_name
from lbdsl.model.gguf_splitting import SPLITTERS, restore_splitting
from tests.export_cases import small_tokenizer


@pytest.mark.parametrize("name", SPLITTERS)
def test_what_is_restored_is_recognised(name, tmp_path):
    tokenizer = small_tokenizer()
    restore_splitting(tokenizer, name)
    tokenizer.save_pretrained(tmp_path)
    assert pre_tokenizer_name(json.loads((tmp_path / "tokenizer.json").read_text())) == name


def test_digits_stand_alone_where_the_file_says_so():
    tokenizer = small_tokenizer()
    before = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("x  34")
    restore_splitting(tokenizer, "smollm")
    after = [part for part, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("x  34")]
    assert [part for part, _ in before] == ["x", "Ġ", "Ġ34"]
    assert after == ["x", "ĠĠ", "3", "4"]


@pytest.mark.parametrize("name", [None, "default"])
def test_a_file_that_does_not_say_it_changes_nothing(name):
    tokenizer = small_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    restore_splitting(tokenizer, name)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_an_unknown_name_is_refused():
    with pytest.raises(LbdslError, match=r"splits text as llama\.cpp's 'deepseek-coder'"):
        restore_splitting(small_tokenizer(), "deepseek-coder")
