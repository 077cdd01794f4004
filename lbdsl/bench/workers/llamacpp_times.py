"""Run by the Python that has llama-cpp-python: `llamacpp_times.py JOB FD`.

JOB is {"model", "tokens", "batch", "places", "threads", "vocab", "steps"}. When the model is loaded, a line of JSON goes to
FD; then each line of standard input is answered by {"seconds"}. {"place", "read"} reads a prompt of so many random tokens;
{"place", "prepare", "batch"} reads one into so many sequences; {"place"} writes "steps" tokens after each of them, and the
seconds are those of one step. Each of the "places" has sequences of its own.
"""

import json
import os
import random
import sys
import time

import llama_cpp as api

READ_AT_ONCE = 512


class Model:
    def __init__(self, job):
        self.job = job
        model = api.llama_model_default_params()
        model.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(job["model"].encode(), model)
        wanted = api.llama_context_default_params()
        wanted.n_seq_max = job["places"] * job["batch"]
        wanted.n_ctx = job["tokens"] * wanted.n_seq_max
        wanted.n_batch = wanted.n_ubatch = READ_AT_ONCE
        wanted.n_threads = wanted.n_threads_batch = job["threads"]
        wanted.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        wanted.kv_unified = False
        wanted.swa_full = False
        self.context = self.model and api.llama_init_from_model(self.model, wanted)
        if not self.context:
            sys.exit("RuntimeError: the model, or a context of so many sequences, could not be made")
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(max(READ_AT_ONCE, wanted.n_seq_max), 0, 1)
        draw = random.Random(0)
        self.ids = [draw.randrange(job["vocab"]) for _ in range(job["tokens"])]
        self.written = {}

    def read(self, place, count):
        first = place * self.job["batch"]
        for sequence in range(first, first + self.job["batch"]):
            api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        for start in range(0, count, READ_AT_ONCE):
            places = range(start, min(start + READ_AT_ONCE, count))
            self.decode([(self.ids[at], at, first, at == count - 1) for at in places])

    def prepare(self, place, count, batch):
        self.read(place, count)
        first = place * self.job["batch"]
        for sequence in range(first + 1, first + batch):
            api.llama_memory_seq_cp(self.memory, first, sequence, -1, -1)
        self.written[place] = (count, batch)

    def write(self, place):
        first, (at, batch) = place * self.job["batch"], self.written[place]
        for step in range(self.job["steps"]):
            self.decode([(self.ids[0], at + step, first + sequence, True) for sequence in range(batch)])
        self.written[place] = (at + self.job["steps"], batch)

    def decode(self, rows):
        """Rows of token, position, sequence, and whether its logits are wanted."""
        self.batch.n_tokens = len(rows)
        for index, (token, at, sequence, logits) in enumerate(rows):
            self.batch.token[index] = token
            self.batch.pos[index] = at
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = sequence
            self.batch.logits[index] = logits
        status = api.llama_decode(self.context, self.batch)
        if status:
            sys.exit(f"RuntimeError: llama_decode gave {status}")
        api.llama_synchronize(self.context)


def main(job, answers):
    model = Model(job)
    tell(answers, {"version": api.__version__})
    for line in sys.stdin:
        asked = json.loads(line)
        started, steps = time.perf_counter(), 1
        if "read" in asked:
            model.read(asked["place"], asked["read"])
        elif "prepare" in asked:
            model.prepare(asked["place"], asked["prepare"], asked["batch"])
        else:
            model.write(asked["place"])
            steps = job["steps"]
        tell(answers, {"seconds": (time.perf_counter() - started) / steps})


def tell(answers, value):
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as stream:
        main(json.loads(sys.argv[1]), stream)
