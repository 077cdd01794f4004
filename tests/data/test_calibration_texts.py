"""Calibration texts that need no file: what is installed, and what a model writes."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lbdsl.data import TextPart, read_documents, read_parts
from lbdsl.data.blocks import TokenBlocks, mixed, shares
from lbdsl.data.installed import MOST, SHORTEST, _docstrings, installed_documents
from lbdsl.data.written import BATCH, SEEDS, Writer, written_blocks
from lbdsl.model.surgery import to_hybrid
from tests.tiny_model import byte_tokenizer, tiny_llama


@pytest.mark.slow
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


def test_documentation_does_not_depend_on_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another package installed is no text of it, also where a dependency names it for another system or an extra."""
    needs = {
        "lbdsl": ("base.one>=1", "pictures; extra == 'pictures'", "old ; python_version < '3' and extra == 'x'"),
        "base_one": ("Deep-Er[fast] (>=1)", "foreign; sys_platform == 'no such system'", "absent"),
        "deep_er": ("base-one", "fast; extra == 'fast'"),
        **dict.fromkeys(("pictures", "old", "foreign", "fast")),
    }
    for name, required in needs.items():
        folder = tmp_path / f"{name}-9.0.dist-info"
        folder.mkdir()
        lines = [f"Requires-Dist: {line}" for line in required or ()]
        said = f"\n\nDescription of {name}. " + "It says something. " * 20
        (folder / "METADATA").write_text("\n".join([f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0", *lines]) + said)
    monkeypatch.syspath_prepend(tmp_path)
    installed_documents.cache_clear()
    try:
        documents = read_documents("builtin:docs")
    finally:
        installed_documents.cache_clear()
    found = [text.strip().split(".")[0] for text in documents if "It says something" in text]
    assert found == ["Description of base_one", "Description of deep_er"]


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


class Writing:
    """A tiny model as a writer, and how often it was asked."""

    def __init__(self, folder: Path, digest: str = "m"):
        self.asked, self.seen = 0, []
        self.model = to_hybrid(tiny_llama()).eval()
        self.writer = Writer(self._model, byte_tokenizer, digest, folder, self._stage)

    def _model(self):
        self.asked += 1
        return self.model

    def _stage(self):
        return nullcontext(lambda done, total, note: self.seen.append((done, total)))


@pytest.mark.torch
def test_a_model_writes_its_own_text_once(tmp_path: Path) -> None:
    writing = Writing(tmp_path / "cache")
    state = torch.random.get_rng_state()
    first = written_blocks(writing.writer, 200, 64)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.ids.dtype == torch.int64
    assert first.ids.shape == (3, 64)
    assert bool(((first.ids >= 0) & (first.ids < 260)).all())
    assert (first.ids[:, 0] == byte_tokenizer().eos_token_id).all()
    assert writing.seen == [(3 * n, 3 * 64) for n in range(2, 65)]
    again = written_blocks(writing.writer, 200, 64)
    assert (writing.asked, again.digest) == (1, first.digest)
    assert torch.equal(again.ids, first.ids)
    # It is the model's own text, whatever its configuration does to what it writes for others.
    penal = Writing(tmp_path / "penal")
    penal.model.generation_config.repetition_penalty = 5.0
    assert torch.equal(written_blocks(penal.writer, 200, 64).ids, first.ids)
    assert penal.model.generation_config.repetition_penalty == 5.0
    # More of it begins alike; the same on another day; another seed or part is another text.
    more, most = (written_blocks(writing.writer, rows * 64, 64) for rows in (BATCH + 4, BATCH + 8))
    assert torch.equal(more.ids[:BATCH], most.ids[:BATCH])
    assert writing.seen[-1] == ((BATCH + 8) * 64, (BATCH + 8) * 64)
    assert torch.equal(written_blocks(Writing(tmp_path / "other").writer, 200, 64).ids, first.ids)
    others = [
        written_blocks(writing.writer, 200, 64, seed=1),
        *(written_blocks(writing.writer, 200, 64, part=p) for p in SEEDS),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 5
    # It writes on behind an end.
    assert written_blocks(writing.writer, 512, 4096).ids.shape == (1, 512)
    long, end = written_blocks(writing.writer, 16 * 512, 512).ids, byte_tokenizer().eos_token_id
    behind = long[:, 2:][long[:, 1:-1] == end]
    assert len(behind) > 10
    assert int((behind != end).sum()) > 10


@pytest.mark.torch
def test_what_a_kill_leaves_is_kept(tmp_path: Path) -> None:
    whole = Writing(tmp_path / "whole")
    wanted = written_blocks(whole.writer, (BATCH + 8) * 32, 32).ids
    part = Writing(tmp_path / "part")
    written_blocks(part.writer, (BATCH + 4) * 32, 32)
    files = sorted((tmp_path / "part" / "written").iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:50])  # damaged: written again
    assert torch.equal(written_blocks(part.writer, (BATCH + 8) * 32, 32).ids, wanted)


@pytest.mark.torch
def test_few_tokens_are_repeated_in_another_order(tmp_path: Path) -> None:
    writer = Writing(tmp_path).writer
    found = written_blocks(writer, 10 * 32, 32, part=TextPart.HEAL, most=4 * 32)
    assert (found.passes, found.available) == (3, 4 * 32)
    rows = [tuple(row) for row in found.ids.tolist()]
    assert len(set(rows)) == 4
    assert set(rows[:4]) == set(rows[4:8]) == set(rows)
    assert rows[:4] != rows[4:8]


@pytest.mark.parametrize(
    ("count", "weights", "wanted"),
    [
        (10, (1, 1), [5, 5]),
        (10, (2, 1), [7, 3]),
        (7, (1, 1, 1), [3, 2, 2]),
        (3, (100, 1, 1), [1, 1, 1]),
        (200, (3, 1), [150, 50]),
    ],
)
def test_a_mixture_is_divided_by_weight(count: int, weights: tuple[float, ...], wanted: list[int]) -> None:
    found = shares(count, weights)
    assert sum(found) == count
    assert found == wanted


@pytest.mark.torch
def test_a_mixture_has_the_sequences_of_its_texts() -> None:
    texts = [
        TokenBlocks(torch.full((rows, 8), value), f"d{value}", "x", passes, available)
        for rows, value, passes, available in ((6, 1, 1, None), (3, 2, 3, 8))
    ]
    found = mixed(texts, TextPart.HEAL, 0, "mix")
    assert sorted(found.ids[:, 0].tolist()) == [1] * 6 + [2] * 3
    assert found.ids[:, 0].tolist() != [1] * 6 + [2] * 3
    assert (found.passes, found.available) == (3, 24)
    assert mixed(texts, TextPart.SCORE, 0, "mix").ids[:, 0].tolist() == [1] * 6 + [2] * 3
    assert mixed(texts, TextPart.HEAL, 1, "mix").digest != found.digest
