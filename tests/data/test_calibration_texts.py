"""Calibration texts that need no file: what is installed, and what a model writes."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lbdsl.data import TextPart, read_documents, read_parts
from lbdsl.data.installed import MOST, SHORTEST, _docstrings, installed_documents
from lbdsl.data.written import LONGEST, written_blocks
from lbdsl.model.surgery import to_hybrid
from tests.tiny_model import byte_tokenizer, tiny_llama


def test_documentation_of_the_dependencies() -> None:
    documents = read_documents("builtin:docs")
    assert documents == read_documents("builtin:docs")
    assert 4_000_000 < sum(map(len, documents)) < 40_000_000
    assert min(map(len, documents)) >= SHORTEST
    assert any(text == metadata.distribution("rich").metadata.json["description"] for text in documents)
    assert any("Return a deep copy" in text or "deepcopy" in text for text in documents)
    split = read_parts("builtin:docs")
    assert split.characters(TextPart.SCORE) > 400_000
    assert split.characters(TextPart.HEAL) > 2_000_000
    # It has nothing of the text that results are judged on.
    judged = read_documents("builtin:wikitext")
    assert not set(documents) & set(judged)
    assert installed_documents() is installed_documents()


def test_docstrings_of_files(tmp_path: Path) -> None:
    long = "Words that say something. " * 12
    (tmp_path / "a.py").write_text(f'"""{long}"""\n\ndef f():\n    r"""Short."""\n    x = """\n    not one"""\n')
    (tmp_path / "b.py").write_text(f'class B:\n    """{long}\n\n        indented\n    """\n')
    (tmp_path / "test_c.py").write_text(f'"""{long}"""\n')
    (tmp_path / "d.txt").write_text(f'"""{long}"""\n')
    (tmp_path / "e.py").write_bytes(b'"""\xff' + long.encode() + b'"""\n')
    files = {path.name: path for path in tmp_path.iterdir()} | {"gone.py": tmp_path / "gone.py"}
    found = sorted(_docstrings(files))
    assert len(found) == 3
    assert [text.startswith(("Words", "\ufffdWords")) for text in found] == [True] * 3
    assert any(text.endswith("\n\nindented") for text in found)
    many = {f"{i}.py": tmp_path / "many.py" for i in range(9)}
    (tmp_path / "many.py").write_text(f'"""{"x" * (MOST // 2)}"""\n')
    assert len(list(_docstrings(many))) == 2


@pytest.mark.torch
def test_a_model_writes_its_own_text_once(tmp_path: Path) -> None:
    tiny, models = to_hybrid(tiny_llama()).eval(), []

    def model():
        models.append(tiny)
        return tiny

    def written(seed: int = 0, tokens: int = 200, seq: int = 64, folder: str = "cache", digest: str = "m"):
        seen = []
        tokenizer = byte_tokenizer()

        def stage():
            return nullcontext(lambda done, total, note: seen.append(done))

        found = written_blocks(model, tokenizer, tokens, seq, seed, tmp_path / folder, digest, stage)
        assert found.ids.dtype == torch.int64
        assert bool(((found.ids >= 0) & (found.ids < 260)).all())
        assert (found.ids[:, 0] == tokenizer.eos_token_id).all()
        return found, seen

    state = torch.random.get_rng_state()
    first, seen = written()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.ids.shape == (3, 64)
    assert seen[-1] == 64
    again, seen = written()
    assert len(models) == 1
    assert not seen
    assert again.digest == first.digest
    assert torch.equal(again.ids, first.ids)
    # The same on another day; another seed, model or length is another text.
    assert torch.equal(written(folder="other")[0].ids, first.ids)
    assert written(seed=1)[0].digest != first.digest
    assert written(digest="n")[0].digest == first.digest
    assert written(tokens=128)[0].ids.shape == (2, 64)
    assert written(tokens=LONGEST + 100, seq=4096)[0].ids.shape == (1, LONGEST)
    ends = int((written(tokens=LONGEST, seq=4096)[0].ids[:, 1:] == byte_tokenizer().eos_token_id).sum())
    assert ends > 1  # it writes on behind an end
    # A damaged file is written again.
    count = len(models)
    for path in (tmp_path / "cache" / "written").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(written()[0].ids, first.ids)
    assert len(models) == count + 1
