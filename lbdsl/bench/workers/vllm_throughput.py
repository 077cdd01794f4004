"""Run by the Python that has vLLM: `vllm_throughput.py JOB FD`.

JOB is {"model", "max_model_len", "dtype", "max_num_seqs", "trust_remote_code", "arguments"}; the last are words as on the
command line of `vllm serve`, and win. When the model is loaded, a line of JSON goes to FD; then
each line of standard input, {"requests", "input", "output"}, is answered by {"seconds", "written"}: how long that
many requests at once take, of random tokens, without prefix cache, each until it has all of its output; and {"ids"} by
{"log_probs"}: those of each token after the ones before it.
"""

import json
import os
import random
import sys
import time


def given(words):
    """The arguments of LLM that words of the command line mean."""
    if not words:
        return {}
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser, missing = EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False)), object()
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args([])), missing))
    return {name: value for name, value in vars(parser.parse_args(words)).items() if value is not missing}


def threads(_worker):
    import torch

    return torch.get_num_threads()


def main(job, answers):
    import torch
    from vllm import LLM, SamplingParams, __version__

    options = {
        "dtype": job["dtype"],
        "max_model_len": job["max_model_len"],
        "max_num_seqs": job["max_num_seqs"],
        "trust_remote_code": job["trust_remote_code"],
        "enable_prefix_caching": False,
        "skip_tokenizer_init": True,
        "seed": 0,
    }
    llm = LLM(job["model"], **{**options, **given(job["arguments"])})
    vocab = llm.llm_engine.model_config.get_vocab_size()
    said = {"version": __version__}
    if not torch.cuda.is_available():
        # Its workers are other processes, with threads of their own.
        said["threads"] = llm.collective_rpc(threads)[0]
    print(json.dumps(said), file=answers, flush=True)
    draw = random.Random(0)
    for line in sys.stdin:
        asked = json.loads(line)
        if "ids" in asked:
            wanted = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
            (output,) = llm.generate([{"prompt_token_ids": asked["ids"]}], wanted, use_tqdm=False)
            read = zip(asked["ids"][1:], output.prompt_logprobs[1:], strict=True)
            print(json.dumps({"log_probs": [found[token].logprob for token, found in read]}), file=answers, flush=True)
            continue
        prompts = [
            {"prompt_token_ids": [draw.randrange(vocab) for _ in range(asked["input"])]} for _ in range(asked["requests"])
        ]
        wanted = SamplingParams(temperature=0.0, max_tokens=asked["output"], ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        outputs = llm.generate(prompts, wanted, use_tqdm=False)
        seconds = time.perf_counter() - started
        written = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"seconds": seconds, "written": written}), file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as stream:
        main(json.loads(sys.argv[1]), stream)
    # vLLM's own end of its processes can abort this one.
    os._exit(0)
