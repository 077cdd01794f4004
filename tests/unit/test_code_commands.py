"""Codes whose examples are commands: the ones that need no model in memory are run, in a folder that fits their names."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbdsl.cli.app import cli
from lbdsl.cli.config import default_map
from lbdsl.core.codes import code_for
from lbdsl.core.diagnostic import LbdslError

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-5,
}


def weights(*, cut: int = 0, shape: int = 8) -> bytes:
    """A safetensors file of zeros for CONFIG; `cut` bytes short, or with norms of another `shape`."""
    shapes = {"model.embed_tokens.weight": [32, 8], "model.norm.weight": [8]}
    for layer in range(2):
        head = f"model.layers.{layer}."
        shapes |= {
            head + "input_layernorm.weight": [shape],
            head + "post_attention_layernorm.weight": [8],
            head + "self_attn.q_proj.weight": [8, 8],
            head + "self_attn.k_proj.weight": [4, 8],
            head + "self_attn.v_proj.weight": [4, 8],
            head + "self_attn.o_proj.weight": [8, 8],
            head + "mlp.gate_proj.weight": [16, 8],
            head + "mlp.up_proj.weight": [16, 8],
            head + "mlp.down_proj.weight": [8, 16],
        }
    header, offset = {}, 0
    for name, sizes in shapes.items():
        count = 2
        for size in sizes:
            count *= size
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header).encode()
    return (len(text).to_bytes(8, "little") + text + b"\0" * offset)[: -cut or None]


def folder(at: Path, name: str, config: object = CONFIG, **files: bytes) -> None:
    (at / name).mkdir()
    if config is not None:
        (at / name / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for file, data in files.items():
        (at / name / file.replace("__", ".")).write_bytes(data)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the examples name."""
    model = {"model__safetensors": weights()}
    folder(tmp_path, "empty-folder", None)
    folder(tmp_path, "a-folder-with-config.json-and-weights", **model)
    folder(tmp_path, "a-folder-with-a-broken-config.json", "{", **model)
    folder(tmp_path, "the-folder-as-it-was-downloaded", **model)
    folder(
        tmp_path,
        "a-model-of-another-family",
        CONFIG | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
        **model,
    )
    folder(tmp_path, "a-half-downloaded-model", model__safetensors=weights(cut=100))
    folder(tmp_path, "the-model-downloaded-again", **model)
    folder(tmp_path, "a-folder-with-pytorch_model.bin", pytorch_model__bin=b"\x80\x02")
    folder(tmp_path, "the-same-model-in-safetensors", **model)
    folder(tmp_path, "a-damaged-model", model__safetensors=b"\xff" * 64)
    folder(tmp_path, "a-model-with-another-config.json", model__safetensors=weights(shape=16))
    folder(tmp_path, "the-model-with-its-own-config.json", **model)
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + b"\xff" * 40)
    (tmp_path / "README.md").write_text("# Not a plan\n")
    (tmp_path / "half.lbplan").write_text('{"lbdsl_version": "0", "kind": "plan"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def codes_of(command: str) -> list[str]:
    """The codes of the errors that a command ends with."""
    words = shlex.split(command, comments=True)[1:]
    done = CliRunner().invoke(cli, words, default_map=default_map())
    if isinstance(done.exception, LbdslError):
        return [d.code for d in done.exception.diagnostics if d.is_error]
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return [word[6:11] for word in done.output.split() if word.startswith("error[")]


RUN = [
    "LB020",
    "LB052",
    "LB138",
    "LB330",
    "LB331",
    "LB400",
    "LB401",
    "LB402",
    "LB403",
    "LB405",
    "LB406",
    "LB407",
    "LB409",
    "LB410",
]


@pytest.mark.parametrize("id", [pytest.param(id, marks=pytest.mark.torch) if id == "LB330" else id for id in RUN])
def test_the_command_ends_with_its_code(id: str, place: Path) -> None:
    assert id in codes_of(code_for(id).example)


@pytest.mark.parametrize("id", [id for id in RUN if id in ("LB052", "LB401", "LB402", "LB405", "LB406", "LB407", "LB409")])
def test_the_command_put_right_succeeds(id: str, place: Path) -> None:
    assert codes_of(code_for(id).fixed) == []


def test_an_unknown_dtype_by_the_api(place: Path) -> None:
    from lbdsl import inspect_model

    assert code_for("LB415").example == 'lbdsl.inspect_model("MODEL", dtype="int4")'
    with pytest.raises(LbdslError) as caught:
        inspect_model("the-model-downloaded-again", dtype="int4")
    assert [d.code for d in caught.value.diagnostics] == ["LB415"]
    assert inspect_model("the-model-downloaded-again", dtype="bfloat16").facts.layers == 2


def test_a_bad_configuration_file(place: Path) -> None:
    assert "devize" in code_for("LB480").example
    (place / "lbdsl.toml").write_text('devize = "cpu"\n')
    with pytest.raises(LbdslError) as caught:
        default_map()
    assert [d.code for d in caught.value.diagnostics] == ["LB480"]
    (place / "lbdsl.toml").write_text('device = "cpu"\n')
    default_map()
