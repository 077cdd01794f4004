"""Hostile, damaged and mismatched models on the command line: a coded error, exit 6, no hang, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lbdsl.api.applying import ApplyOptions, apply_plan
from lbdsl.api.planning import plan_recipe
from lbdsl.artifact.restore import load_artifact
from lbdsl.core.diagnostic import LbdslError
from lbdsl.model.checkpoint import INDEX, SINGLE
from lbdsl.session.options import RunOptions
from tests.model_cases import edit_json, write_safetensors
from tests.tiny_model import byte_tokenizer, tiny_llama

pytestmark = pytest.mark.timeout(60)

RECIPE = "layers 1 drop\nlayers 2 swa(window=16)\n"
Mutation = Callable[[Path], object]


def save_model(folder: Path, *, shards: bool) -> Path:
    model = tiny_llama(hidden_size=16, intermediate_size=32, num_hidden_layers=3)
    model.save_pretrained(folder, max_shard_size="10KB" if shards else "1GB")
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> Path:
    place = tmp_path_factory.mktemp("originals")
    save_model(place / "single", shards=False)
    save_model(place / "sharded", shards=True)
    (place / "x.lbr").write_text(RECIPE)
    options = RunOptions(cache_dir=new_cache(place / "cache"), device="cpu")
    planned = plan_recipe(place / "x.lbr", str(place / "sharded"), options=options)
    apply_plan(planned, chosen=ApplyOptions(output=place / "artifact"))
    return place


def fifo(name: str) -> Mutation:
    """A named pipe that nobody writes to: whoever opens it waits for ever."""

    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def link(name: str, target: str) -> Mutation:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return make


def written(name: str, content: bytes | str) -> Mutation:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def config(**changes: object) -> Mutation:
    return lambda folder: edit_json(folder / "config.json", **changes)


def cut(name: str, keep: int) -> Mutation:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def tensors(change: Callable[[dict], object]) -> Mutation:
    """Change the dictionary of tensors of the one file."""

    def make(folder: Path) -> None:
        loaded = load_file(folder / SINGLE)
        change(loaded)
        save_file(loaded, folder / SINGLE, metadata={"format": "pt"})

    return make


def index(**weight_map: object) -> Mutation:
    """Put entries into the shard index."""

    def make(folder: Path) -> None:
        value = json.loads((folder / INDEX).read_text())
        value["weight_map"] |= {name.replace("__", "."): file for name, file in weight_map.items()}
        (folder / INDEX).write_text(json.dumps(value))

    return make


def header(entries: dict, data: bytes = b"") -> Mutation:
    return lambda folder: write_safetensors(folder / SINGLE, entries, data)


NORM = "model__norm__weight"
U8 = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}

SINGLE_CASES: dict[str, tuple[Mutation, str]] = {
    "config is a pipe": (fifo("config.json"), "LB402"),
    "config is a device": (link("config.json", "/dev/zero"), "LB402"),
    "config links to itself": (link("config.json", "config.json"), "LB402"),
    "config is a folder": (lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()), "LB402"),
    "config is nested deep": (written("config.json", '{"a":' * 100_000), "LB402"),
    "config has a huge number": (written("config.json", '{"vocab_size": ' + "9" * 10_000 + "}"), "LB402"),
    "config has NaN": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("1e-06", "NaN")),
        "LB402",
    ),
    "config has a key twice": (written("config.json", '{"model_type": "llama", "model_type": "llama"}'), "LB402"),
    "config is cut short": (cut("config.json", 100), "LB402"),
    "config of another model": (config(hidden_size=32), "LB409"),
    "config with more layers": (config(num_hidden_layers=4), "LB409"),
    "config with ten thousand layers": (config(num_hidden_layers=10_000), "LB409"),
    "config with a vocabulary of two billion": (config(vocab_size=2**31 - 1), "LB409"),
    "config with a size beyond all": (config(intermediate_size=2**63), "LB402"),
    "config of an unknown family": (config(model_type="evil"), "LB403"),
    "config with own code": (config(model_type="custom", auto_map={"AutoConfig": "evil.Config"}), "LB403"),
    "weights are empty": (written(SINGLE, b""), "LB405"),
    "weights are cut short": (cut(SINGLE, 3000), "LB405"),
    "weights have bytes to spare": (lambda f: (f / SINGLE).open("ab").write(b"x"), "LB407"),
    "weights are no safetensors": (written(SINGLE, b"PK\x03\x04" + b"\xff" * 1000), "LB407"),
    "header claims all memory": (written(SINGLE, (2**62).to_bytes(8, "little") + b"{}"), "LB407"),
    "header is nested deep": (lambda f: write_safetensors(f / SINGLE, b'{"a":' * 50_000), "LB407"),
    "header with a key twice": (lambda f: write_safetensors(f / SINGLE, b'{"a": {}, "a": {}}'), "LB407"),
    "header with an overlap": (header({"a": U8, "b": U8}, b"x"), "LB407"),
    "header with a hole": (header({"a": {**U8, "data_offsets": [1, 2]}}, b"xx"), "LB407"),
    "header beyond the end": (header({"a": {**U8, "shape": [9], "data_offsets": [0, 9]}}, b"x"), "LB405"),
    "header with negative offsets": (header({"a": {**U8, "data_offsets": [-1, 0]}}, b"x"), "LB407"),
    "header with an overflowing shape": (header({"a": {**U8, "shape": [2**62, 4]}}, b"x"), "LB407"),
    "names with terminal escapes": (header({"\x1b[2J\x00\u202e": {**U8, "shape": [2]}}, b"x"), "LB407"),
    "a tensor is missing": (tensors(lambda t: t.pop("model.norm.weight")), "LB409"),
    "a tensor too much": (tensors(lambda t: t.update({"model.layers.0.self_attn.lora_A": torch.ones(2)})), "LB409"),
    "a tensor of another shape": (tensors(lambda t: t.update({"model.norm.weight": torch.ones(17)})), "LB409"),
    "a tensor of whole numbers": (
        tensors(lambda t: t.update({"model.norm.weight": torch.ones(16, dtype=torch.int32)})),
        "LB404",
    ),
    "only a pickle": (lambda f: (f / SINGLE).rename(f / "pytorch_model.bin"), "LB406"),
}

SHARDED_CASES: dict[str, tuple[Mutation, str]] = {
    "index is a pipe": (lambda f: ((f / INDEX).unlink(), os.mkfifo(f / INDEX)), "LB401"),
    "index is nested deep": (written(INDEX, '{"weight_map":' * 50_000), "LB408"),
    "index without a map": (written(INDEX, '{"weight_map": []}'), "LB408"),
    "index with an absolute path": (index(**{NORM: "/etc/x.safetensors"}), "LB408"),
    "index with a path upwards": (index(**{NORM: "../single/model.safetensors"}), "LB408"),
    "index with a backslash": (index(**{NORM: "..\\x.safetensors"}), "LB408"),
    "index with a null byte": (index(**{NORM: "x\0.safetensors"}), "LB408"),
    "index with a line break": (index(**{NORM: "x\n.safetensors"}), "LB408"),
    "index with a right-to-left mark": (index(**{NORM: "\u202ex.safetensors"}), "LB408"),
    "index with a pickle": (index(**{NORM: "x.bin"}), "LB408"),
    "index with a number": (index(**{NORM: 7}), "LB408"),
    "index with a missing shard": (index(**{NORM: "none.safetensors"}), "LB405"),
    "index with a name too long": (index(**{NORM: "x" * 5000 + ".safetensors"}), "LB408"),
    "index with a tensor of nowhere": (index(evil="model-00001-of-00002.safetensors"), "LB405"),
    "a shard is a pipe": (lambda f: [fifo(p.name)(f) for p in sorted(f.glob("*.safetensors"))[:1]], "LB405"),
    "a shard is a device": (lambda f: [link(p.name, "/dev/zero")(f) for p in sorted(f.glob("*.safetensors"))[:1]], "LB405"),
    "a shard is a folder": (lambda f: [(p.unlink(), p.mkdir()) for p in sorted(f.glob("*.safetensors"))[:1]], "LB405"),
    "a shard links to another file": (
        lambda f: [link(p.name, "/etc/passwd")(f) for p in sorted(f.glob("*.safetensors"))[:1]],
        "LB407",
    ),
    "a shard stands for another": (
        lambda f: shutil.copy(sorted(f.glob("*.safetensors"))[0], sorted(f.glob("*.safetensors"))[1]),
        "LB409",
    ),
}

CASES = [("single", name) for name in SINGLE_CASES] + [("sharded", name) for name in SHARDED_CASES]


@pytest.fixture
def place(tmp_path: Path, originals: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LBDSL_CACHE_DIR", str(originals / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "x.lbr").write_text(RECIPE)
    return tmp_path


def refused(lbdsl, *words: object, code: str, exit_code: int = 6) -> None:
    done = lbdsl(*words)
    assert (done.code, code in done.err) == (exit_code, True), done.err
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    assert "\x00" not in done.err
    assert len(done.err) < 4000
    assert not [path for path in Path().iterdir() if path.name.startswith("out")], "nothing half-written"


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_refused(place: Path, originals: Path, lbdsl, kind: str, name: str) -> None:
    mutate, code = (SINGLE_CASES if kind == "single" else SHARDED_CASES)[name]
    shutil.copytree(originals / kind, place / "model")
    mutate(place / "model")
    refused(lbdsl, "inspect", "model", code=code, exit_code=1 if code == "LB401" else 6)
    refused(lbdsl, "apply", "x.lbr", "model", "-o", "out", "--yes", code=code, exit_code=1 if code == "LB401" else 6)


def test_many_names_and_one_of_them_twice(tmp_path: Path) -> None:
    """Looking for the one must not take the square of the names."""
    from lbdsl.core.diagnostic import LbdslError
    from lbdsl.model.safetensors_header import read_safetensors_header

    names = ",".join(f'"{number}":0' for number in [*range(2 * 10**5), 2 * 10**5 - 1])
    write_safetensors(tmp_path / SINGLE, b"{" + names.encode() + b"}")
    with pytest.raises(LbdslError, match="'199999' twice"):
        read_safetensors_header(tmp_path / SINGLE)


def test_a_shard_index_may_lie_about_sizes(place: Path, originals: Path, lbdsl) -> None:
    """Nothing is allocated or copied by them, and the result says the truth."""
    shutil.copytree(originals / "sharded", place / "model")
    edit_json(place / "model" / INDEX, metadata={"total_size": 2**62, "total_parameters": -1})
    done = lbdsl("apply", "x.lbr", "model", "-o", "out", "--yes")
    assert done.code == 0, done.err
    found = json.loads((place / "out" / INDEX).read_text())["metadata"]
    sizes = [value.nbytes for file in (place / "out").glob("*.safetensors") for value in load_file(file).values()]
    assert found["total_size"] == sum(sizes)


TOKENIZER_CASES: dict[str, Mutation] = {
    "tokenizer is a pipe": fifo("tokenizer.json"),
    "tokenizer is cut short": cut("tokenizer.json", 200),
    "tokenizer is nested deep": written("tokenizer.json", "[" * 100_000),
    "tokenizer is a number": written("tokenizer.json", "7"),
    "its configuration is nested deep": written("tokenizer_config.json", '{"a":' * 100_000),
    "its configuration has a huge number": written("tokenizer_config.json", '{"model_max_length": ' + "9" * 10_000 + "}"),
}


@pytest.mark.parametrize("name", TOKENIZER_CASES)
def test_a_tokenizer_that_cannot_be_read(place: Path, originals: Path, lbdsl, name: str) -> None:
    shutil.copytree(originals / "single", place / "model")
    TOKENIZER_CASES[name](place / "model")
    refused(lbdsl, "apply", "x.lbr", "model", "-o", "out", "--yes", code="LB418")


EVIL = "import pathlib\npathlib.Path({marker!r}).write_text('ran')\nclass Evil: pass\n"


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_beside_a_source_model_is_not_run(place: Path, originals: Path, lbdsl, part: str) -> None:
    """Whatever names it, and whether the model is then used or refused."""
    shutil.copytree(originals / "single", place / "model")
    (place / "model" / "evil.py").write_text(EVIL.format(marker=str(place / "marker")))
    names = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    extra = {"tokenizer_class": "Evil"} if part == "tokenizer_config.json" else {}
    edit_json(place / "model" / part, auto_map=names, custom_generate="evil", **extra)
    for words in (("inspect", "model"), ("apply", "x.lbr", "model", "-o", "out", "--yes")):
        done = lbdsl(*words)
        assert done.code in (0, 6), done.err
        assert not (place / "marker").exists()
    assert not list(place.glob("out/evil*"))


class TestArtifacts:
    @pytest.fixture
    def artifact(self, place: Path, originals: Path) -> Path:
        return shutil.copytree(originals / "artifact", place / "artifact")

    EDITS: dict[str, Mutation] = {
        "record edited": lambda f: (f / "lbdsl.json").write_text(
            (f / "lbdsl.json").read_text().replace('"accepted"', '"rejected"')
        ),
        "record cut short": cut("lbdsl.json", 500),
        "record nested deep": written("lbdsl.json", '{"a":' * 100_000),
        "record is a list": written("lbdsl.json", "[]"),
        "record with a huge number": written("lbdsl.json", '{"format_version": ' + "9" * 10_000 + "}"),
        "record of a later format": lambda f: edit_json(f / "lbdsl.json", format_version=3),
        "record with a field too much": lambda f: edit_json(f / "lbdsl.json", more=1),
        "config edited": lambda f: edit_json(f / "config.json", rms_norm_eps=0.5),
        "layers edited": lambda f: (f / "config.json").write_text(
            (f / "config.json").read_text().replace('"size": 16', '"size": 17')
        ),
        "code too much": lambda f: (f / "evil.py").write_text(EVIL.format(marker=str(f.parent / "marker"))),
        "code edited": lambda f: (f / "lbdsl_masks.py").write_text(EVIL.format(marker=str(f.parent / "marker"))),
        "code taken away": lambda f: (f / "lbdsl_cache.py").unlink(),
        "a pickle too much": written("pytorch_model.bin", b"cos\nsystem\n"),
        "a folder called as a file": lambda f: [(f / "extra.json").mkdir(), written("extra.json/x", "x")(f)],
        "a pipe": fifo("special_tokens_map.json"),
        "weights flipped": lambda f: [
            p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1])) for p in [_weights(f)]
        ],
        "a shard taken away": lambda f: _weights(f).unlink(),
        "tokenizer edited": lambda f: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text() + " "),
    }

    @pytest.mark.parametrize("edit", EDITS)
    def test_an_edited_artifact_is_refused(self, artifact: Path, lbdsl, edit: str) -> None:
        self.EDITS[edit](artifact)
        for words in (("eval", "artifact"), ("apply", "x.lbr", "artifact", "-o", "out", "--yes", "--again")):
            done = lbdsl(*words)
            assert done.code == 6, done.err
            assert "LB465" in done.err or "LB405" in done.err
            assert "Traceback" not in done.err
            assert not (artifact.parent / "out").exists()
        assert not (artifact.parent / "marker").exists()

    def test_a_record_that_is_not_there_or_a_pipe(self, artifact: Path, lbdsl) -> None:
        fifo("lbdsl.json")(artifact)
        done = lbdsl("eval", "artifact")
        assert (done.code, "LB466" in done.err) == (1, True)
        (artifact / "lbdsl.json").unlink()
        done = lbdsl("apply", "x.lbr", "artifact", "-o", "out", "--yes")
        assert done.code in (1, 6), done.err
        assert "error[LB4" in done.err
        assert not (artifact.parent / "out").exists()


def _weights(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def test_nobody_is_asked_whether_to_run_an_artifacts_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal transformers would ask; a hasty `y` must not run what an artifact brings."""
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "marker")))
    names = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    asked: list[tuple] = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    with pytest.raises(LbdslError, match="does not load"):
        load_artifact(tmp_path, device="cpu")
    assert not asked
    assert not (tmp_path / "marker").exists()
