"""Run by the Python that has llama-cpp-python: `llamacpp_times.py JOB FD`.

JOB is {"model", "tokens", "batch", "threads", "vocab", "steps"}. When the model is loaded, a line of JSON goes to FD; then
each line of standard input is answered by {"seconds"}. {"read"} reads a prompt of so many random tokens; {"prepare",
"batch"} reads one into so many sequences; {} writes "steps" tokens after each of them, and the seconds are those of one
step.
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
        wanted.n_seq_max = job["batch"]
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
        self.at, self.sequences = 0, 0

    def read(self, count):
        for sequence in range(self.job["batch"]):
            api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        for start in range(0, count, READ_AT_ONCE):
            places = range(start, min(start + READ_AT_ONCE, count))
            self.decode([(self.ids[at], at, 0, at == count - 1) for at in places])

    def prepare(self, count, batch):
        self.read(count)
        for sequence in range(1, batch):
            api.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
        self.at, self.sequences = count, batch

    def write(self):
        for _ in range(self.job["steps"]):
            self.decode([(self.ids[0], self.at, sequence, True) for sequence in range(self.sequences)])
            self.at += 1

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
    print(json.dumps({"version": api.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started, steps = time.perf_counter(), 1
        if "read" in asked:
            model.read(asked["read"])
        elif "prepare" in asked:
            model.prepare(asked["prepare"], asked["batch"])
        else:
            model.write()
            steps = job["steps"]
        print(json.dumps({"seconds": (time.perf_counter() - started) / steps}), file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as stream:
        main(json.loads(sys.argv[1]), stream)
