"""Run by the Python that has vLLM: `vllm_throughput.py JOB FD`.

JOB is {"model", "max_model_len", "dtype", "trust_remote_code"}. When the model is loaded, a line of JSON goes to FD; then
each line of standard input, {"requests", "input", "output"}, is answered by {"seconds", "written"}: how long that
many requests at once take, of random tokens, without prefix cache, each until it has all of its output.
"""

import json
import os
import random
import sys
import time


def main(job, answers):
    import torch
    from vllm import LLM, SamplingParams, __version__

    llm = LLM(
        job["model"],
        dtype=job["dtype"],
        max_model_len=job["max_model_len"],
        max_num_seqs=job["max_num_seqs"],
        trust_remote_code=job["trust_remote_code"],
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        seed=0,
    )
    vocab = llm.llm_engine.model_config.get_vocab_size()
    # On a CPU it leaves cores to its other processes.
    print(json.dumps({"version": __version__, "threads": torch.get_num_threads()}), file=answers, flush=True)
    draw = random.Random(0)
    for line in sys.stdin:
        asked = json.loads(line)
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
