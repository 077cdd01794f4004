"""A Python that answers as one with vLLM for GPUs does: its clock goes on by what a model has to compute."""

from __future__ import annotations

import sys
from pathlib import Path

H100 = ["NVIDIA H100 80GB HBM3", [9, 0], 80 * 10**9]
TORCH = """
import json, os
HAS = json.loads(os.environ.get("FAKE_GPUS", "[]")) if os.environ.get("CUDA_VISIBLE_DEVICES") != "" else []
class cuda:
    is_available = staticmethod(lambda: bool(HAS))
    device_count = staticmethod(lambda: len(HAS))
    get_device_name = staticmethod(lambda i: HAS[i][0])
    get_device_capability = staticmethod(lambda i: tuple(HAS[i][1]))
    mem_get_info = staticmethod(lambda i: (HAS[i][2], HAS[i][2]))
get_num_threads = lambda: 7
"""
VLLM = """
import json, os, time
from pathlib import Path
import torch
__version__ = os.environ.get("FAKE_VLLM", "0.32.0")
clock = [0.0]
time.perf_counter = lambda: clock[0]

def said(**what):
    with open(os.environ["FAKE_LOG"], "a") as log:
        print(json.dumps(what), file=log)

def worker_threads():
    return len(os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "0").split(","))

class SamplingParams:
    def __init__(self, **options):
        self.options = options

class LLM:
    def __init__(self, model, **options):
        said(model=model, options=options, sees=os.environ.get("CUDA_VISIBLE_DEVICES"))
        if os.environ.get("FAKE_FAILS") == "memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        files = Path(model).glob("*.safetensors")
        self.bytes = sum(path.stat().st_size for path in files)
        self.count = 0
        config = json.loads((Path(model) / "config.json").read_text())
        self.vocab = config["vocab_size"]
        self.slower = float(os.environ.get("FAKE_SLOWER", "1")) if "lbdsl_blocks" in config else 1.0
        self.llm_engine = self.model_config = self
    def collective_rpc(self, asked):
        own, torch.get_num_threads = torch.get_num_threads, worker_threads
        try:
            return [asked(self)]
        finally:
            torch.get_num_threads = own
    def get_vocab_size(self):
        return self.vocab
    def generate(self, prompts, wanted, use_tqdm):
        self.count += 1
        if os.environ.get("FAKE_FAILS") == "killed" and self.count > 2:
            os.kill(os.getpid(), 9)
        tokens = wanted.options["max_tokens"]
        clock[0] += self.slower * 1e-9 * self.bytes * len(prompts) * (tokens + len(prompts[0]["prompt_token_ids"]) / 8)
        ids = prompts[0]["prompt_token_ids"]
        alike = type("Logprob", (), {"logprob": -1.0})
        read = [None, *({token: alike} for token in ids[1:])]
        one = type("Output", (), {"outputs": [type("One", (), {"token_ids": [0] * tokens})], "prompt_logprobs": read})
        return [one] * len(prompts)
"""
ARGS = """
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--tensor-parallel-size", type=int, default=1)
        parser.add_argument("--max-num-seqs", type=int, default=256)
        parser.add_argument("--kv-cache-dtype", default="auto")
        parser.add_argument("--kv-cache-dtype-skip-layers", nargs="+", default=[])
        parser.add_argument("--hf-token")
        parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
        return parser
"""
SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from vllm import said, worker_threads
said(server=sys.argv[1:], sees=os.environ.get("CUDA_VISIBLE_DEVICES"))
if os.environ.get("FAKE_FAILS") == "memory":
    sys.exit("CUDA out of memory")
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == "/collective_rpc" and os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
        assert known and body == {"method": "lbdsl_threads"} and "vllm_threads.Threads" in sys.argv
        answer = json.dumps({"results": [str(worker_threads())]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): ...
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""
CLIENT = """
import json, os
from pathlib import Path
def add_cli_args(parser):
    for name in ("backend", "base-url", "model", "endpoint", "tokenizer", "dataset-name", "seed", "random-input-len",
                 "random-output-len", "max-concurrency", "result-dir", "result-filename"):
        parser.add_argument("--" + name)
    parser.add_argument("--num-prompts", type=int)
    for name in ("ignore-eos", "save-result", "trust-remote-code"):
        parser.add_argument("--" + name, action="store_true")
def main(args):
    seconds = sum(path.stat().st_size for path in Path(args.tokenizer).glob("*.safetensors")) * 1e-6
    found = {"failed": 0, "completed": args.num_prompts, "median_ttft_ms": 8e3 * seconds, "median_itl_ms": 1e3 * seconds}
    Path(args.result_dir, args.result_filename).write_text(json.dumps(found))
"""
PARSER = "from argparse import ArgumentParser as FlexibleArgumentParser\n"


def fake_python(folder: Path, *, plug_in: bool = False) -> Path:
    """The Python, without lbdsl's plug-in or with it; $FAKE_LOG names a file to which it says what it is asked."""
    files = {
        "torch/__init__.py": TORCH,
        "vllm/__init__.py": VLLM,
        "vllm/engine/__init__.py": "",
        "vllm/engine/arg_utils.py": ARGS,
        "vllm/utils/__init__.py": "",
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/openai/__init__.py": "",
        "vllm/entrypoints/openai/api_server.py": SERVER,
        "vllm/benchmarks/__init__.py": "",
        "vllm/benchmarks/serve.py": CLIENT,
        "vllm/utils/argparse_utils.py": PARSER,
        **({"lbdsl-0.dist-info/entry_points.txt": "[vllm.general_plugins]\nlbdsl = lbdsl.vllm\n"} if plug_in else {}),
    }
    for name, text in files.items():
        path = folder / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder / "modules"} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python
