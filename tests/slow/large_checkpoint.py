"""A checkpoint of 8 GB that nobody trained, and what is run on it in processes of their own.

    python -m tests.slow.large_checkpoint baseline|convert|rtn|gptq|weights FOLDER OUT

prints one JSON object; VmHWM is the process's peak of resident memory, mapped files included.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 150_016,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
SHARD_LAYERS = 5
CONVERT = "layers 3, 9, 14 drop\nlayers 1-2, 4-8 swa(window=1024, sinks=4)\n"
RECIPES = {"rtn": "layers all quantize(bits=4)\n", "gptq": "layers 0-1 quantize(bits=4, method=gptq)\n"}


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def write_checkpoint(folder: Path) -> None:
    """Random numbers on the disk, in shards of five layers; embeddings and head, of more than 1 GB each, in two more."""
    import numpy as np

    hidden, ff, kv = CONFIG["hidden_size"], CONFIG["intermediate_size"], 8 * 128
    layer = {
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
        "self_attn.q_proj": [hidden, hidden],
        "self_attn.k_proj": [kv, hidden],
        "self_attn.v_proj": [kv, hidden],
        "self_attn.o_proj": [hidden, hidden],
        "mlp.gate_proj": [ff, hidden],
        "mlp.up_proj": [ff, hidden],
        "mlp.down_proj": [hidden, ff],
    }
    shards = [{"model.embed_tokens.weight": [CONFIG["vocab_size"], hidden]}]
    for start in range(0, 16, SHARD_LAYERS):
        shards.append(
            {
                f"model.layers.{i}.{name}.weight": shape
                for i in range(start, min(start + SHARD_LAYERS, 16))
                for name, shape in layer.items()
            }
        )
    shards.append({"lm_head.weight": [CONFIG["vocab_size"], hidden], "model.norm.weight": [hidden]})
    random = np.random.default_rng(0)

    def fill(stream: IO[bytes], left: int) -> None:
        while left:
            # bfloat16 from 1/128 to 1/64, and their negatives.
            bits = random.integers(2**16, size=min(left, 2**24) // 2, dtype=np.uint16)
            stream.write(bits & 0x807F | 0x3C00)
            left -= bits.nbytes

    write_shards(folder, CONFIG, shards, fill)


def write_shards(
    folder: Path, config: dict, shards: list[dict[str, list[int]]], fill: Callable[[IO[bytes], int], None]
) -> None:
    """A checkpoint in bfloat16 of these shapes by file; `fill` writes so many bytes of data."""
    where = {}
    folder.mkdir()
    for number, shapes in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in shapes.items():
            size = 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            where[name], end = file, end + size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            fill(stream, end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config))


def plan_for(folder: Path, mode: str):
    """The plan of a mode's recipe without any measurement, the source, and its facts."""
    from lbdsl.model.inspect import inspect_model
    from lbdsl.model.source import resolve_source
    from lbdsl.plan.build import build
    from lbdsl.plan.made_from import ModelRef
    from lbdsl.recipe.load import recipe_from_text
    from lbdsl.solve.case import Case
    from lbdsl.solve.select import select

    source = resolve_source(str(folder))
    facts = inspect_model(source).unwrap()
    recipe = recipe_from_text(RECIPES.get(mode, CONVERT), "big.lbr", {}).unwrap()
    ref = ModelRef(
        source=str(folder),
        digest="0" * 64,
        family=facts.family,
        layers=facts.layers,
        dtype=facts.dtype,
        facts=facts,
    )
    case = Case(recipe, facts)
    return build(case, select(case, {}).unwrap(), {}, None, ref, None).unwrap(), source, facts


def main(mode: str, folder: Path, out: Path) -> dict:
    import torch

    from lbdsl.core.progress import progress_of
    from lbdsl.data.blocks import TokenBlocks
    from lbdsl.model.load import load_tokenizer
    from lbdsl.run.apply import run_plan
    from lbdsl.run.inputs import RunInputs
    from lbdsl.run.rewrite import rewriting_of
    from lbdsl.run.shards import carry_out

    plan, source, facts = plan_for(folder, mode)
    tokenizer = load_tokenizer(source)
    found = {"imported": peak_bytes()}
    if mode in ("convert", *RECIPES):

        def never():
            raise AssertionError("the model is not loaded")

        inputs = RunInputs(
            facts=facts,
            tokenizer=tokenizer,
            base=never,
            judged_base=never,
            changed=never,
            weights=lambda: folder,
            heal_blocks=(),
            eval_blocks=(),
            gate=lambda post, tasks: (),
            calibration=TokenBlocks(torch.randint(256, (4, 512)), "", ""),
        )
        run_plan(plan, inputs, out, lbdsl_version="0", no_heal=False, resume=False, force=False, progress=progress_of(None))
    elif mode == "weights":
        rewriting = rewriting_of(plan, facts, folder)
        out.mkdir()
        started = time.perf_counter()
        carry_out(rewriting._weights, out)
        found["seconds"] = time.perf_counter() - started
        found["written"] = rewriting._weights.bytes_to_write
    return {**found, "peak": peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
