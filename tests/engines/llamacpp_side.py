"""Runs in llama.cpp's own environment: reads a JSON task from standard input, writes a JSON answer to the file named.

Task: {"model": path, "context": n, "batch": n, "texts": [...], "prompts": [[ids]], "new": n, "blocks": [[ids]],
"logits": [[ids]], "timed": [[ids]]}. Answer: the tokens of each text; for each prompt the greedy tokens and, at each step,
the gap between the two best logits; the mean negative log likelihood (nats/token) of each block; all logits of each row of
"logits"; the seconds that "new" tokens after each of "timed" take.
"""

import json
import sys
import time

import llama_cpp
import numpy as np


def main() -> None:
    task = json.load(sys.stdin)
    batch = task.get("batch", 512)
    # The cache in float32: what is compared is the model, not the rounding of its keys.
    model = llama_cpp.Llama(
        task["model"],
        n_ctx=task["context"],
        n_batch=batch,
        n_ubatch=batch,
        logits_all=True,
        verbose=task.get("verbose", True),
        n_threads=task.get("threads", 2),
        type_k=0,
        type_v=0,
        flash_attn=task.get("flash", False),
        vocab_only=task.get("vocab_only", False),
        n_gpu_layers=0,
    )
    answer = {
        "tokens": [
            model.tokenize(text.encode(), add_bos=task.get("add_bos", True), special=True) for text in task.get("texts", [])
        ],
        "texts": [model.detokenize(ids).decode("utf-8", "replace") for ids in task.get("detokenize", [])],
        "greedy": [greedy(model, ids, task.get("new", 0)) for ids in task.get("prompts", [])],
        "nll": [nll(model, ids) for ids in task.get("blocks", [])],
        "logits": [logits(model, ids).tolist() for ids in task.get("logits", [])],
        "decode_seconds": [decode_seconds(model, ids, task["new"]) for ids in task.get("timed", [])],
        "meta": {key: value for key, value in model.metadata.items() if len(value) < 200},
    }
    with open(sys.argv[1], "w") as stream:
        json.dump(answer, stream)


def logits(model, ids):
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)], dtype=np.float64)


def greedy(model, ids, new):
    model.reset()
    model.eval(ids)
    tokens, gaps = [], []
    for _ in range(new):
        row = np.array(model.scores[model.n_tokens - 1])
        second, best = np.sort(row)[-2:]
        tokens.append(int(row.argmax()))
        gaps.append(float(best - second))
        model.eval(tokens[-1:])
    return {"tokens": tokens, "gaps": gaps}


def decode_seconds(model, ids, new):
    model.reset()
    model.eval(ids)
    started = time.perf_counter()
    for _ in range(new):
        model.eval([int(model.scores[model.n_tokens - 1].argmax())])
    return time.perf_counter() - started


def nll(model, ids):
    rows = logits(model, ids)[:-1]
    top = rows.max(axis=1)
    total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    return float((total - rows[np.arange(len(rows)), ids[1:]]).mean())


main()
