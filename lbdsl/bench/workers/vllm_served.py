"""Run by the Python that has vLLM: `vllm_served.py JOB FD`.

JOB is that of `vllm_throughput.py`. It starts vLLM's server with the model, and when that answers, a line of JSON goes to
FD, with the threads of its worker on a CPU; then each line of standard input, {"requests", "input", "output"}, is answered
by {"ttft", "itl"}: the median seconds to the first token and between tokens, as vLLM's own benchmark client has them of
that many requests at once, twice as many in all. {"failed"} says why it ends: it kills itself with the server.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Not the command `vllm`: it asks for the version of a package `vllm`, and builds for CPUs have other names.
SERVER = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
CLIENT = [
    sys.executable,
    "-c",
    "from vllm.benchmarks.serve import add_cli_args, main; from vllm.utils.argparse_utils import FlexibleArgumentParser; "
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())",
]
NAME = "model"
EXTENSION = "--worker-extension-cls"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(job, port):
    words = ["--model", job["model"], "--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME]
    words += ["--dtype", job["dtype"], "--max-model-len", str(job["max_model_len"])]
    words += ["--max-num-seqs", str(job["max_num_seqs"]), "--no-enable-prefix-caching"]
    words += ["--trust-remote-code"] if job["trust_remote_code"] else []
    words += [EXTENSION, "vllm_threads.Threads"] if asks_threads(job) else []
    words += job["arguments"]
    # Where it answers what its worker is asked; it answers this machine alone.
    modules = filter(None, (os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH")))
    asks = {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": os.pathsep.join(modules)}
    server = subprocess.Popen([*SERVER, *words], env={**os.environ, **(asks if asks_threads(job) else {})})
    while True:
        if server.poll() is not None:
            sys.exit(f"RuntimeError: the server ended with {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(1)


def asks_threads(job):
    """Not of a worker on a GPU, nor of one that is extended already."""
    import torch

    return not torch.cuda.is_available() and not any(word.startswith(EXTENSION) for word in job["arguments"])


def threads(port):
    body = json.dumps({"method": "lbdsl_threads"}).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/collective_rpc", body, headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return int(json.load(answer)["results"][0])


def client(job, port, asked):
    with tempfile.TemporaryDirectory() as place:
        words = ["--backend", "openai", "--base-url", f"http://127.0.0.1:{port}", "--model", NAME]
        words += ["--endpoint", "/v1/completions", "--tokenizer", job["model"], "--dataset-name", "random", "--seed", "0"]
        words += ["--random-input-len", str(asked["input"]), "--random-output-len", str(asked["output"]), "--ignore-eos"]
        words += ["--max-concurrency", str(asked["requests"]), "--num-prompts", str(2 * asked["requests"])]
        words += ["--save-result", "--result-dir", place, "--result-filename", "found.json"]
        words += ["--trust-remote-code"] if job["trust_remote_code"] else []
        if subprocess.run([*CLIENT, *words], check=False).returncode:
            sys.exit("RuntimeError: vLLM's benchmark client failed")
        with open(os.path.join(place, "found.json")) as stream:
            found = json.load(stream)
    if found["failed"] or found["completed"] != 2 * asked["requests"]:
        sys.exit(f"RuntimeError: {found['failed']} of {2 * asked['requests']} requests failed")
    # A single token has no time between tokens.
    names = ("ttft", "itl") if asked["output"] > 1 else ("ttft",)
    return {name: found[f"median_{name}_ms"] / 1e3 for name in names}


def main(job, answers):
    from vllm import __version__

    port = free_port()
    serve(job, port)
    said = {"version": __version__, **({"threads": threads(port)} if asks_threads(job) else {})}
    print(json.dumps(said), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(client(job, port, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as stream:
        try:
            main(json.loads(sys.argv[1]), stream)
        except BaseException as problem:
            # Nobody may be there to read it.
            with contextlib.suppress(OSError):
                print(json.dumps({"failed": str(problem)}), file=stream, flush=True)
        finally:
            # The server and its processes are of this one's group.
            os.killpg(0, signal.SIGKILL)
