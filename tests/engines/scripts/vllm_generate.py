"""Run by the engine's own Python: greedy tokens and their top logprobs from vLLM, as JSON.

    vllm_generate.py JOB RESULT

JOB: {"model", "prompts": [[token, ...], ...], "max_tokens", "max_model_len", "dtype", "trust_remote_code", "twice",
      "timed": [number of prompts, ...], "score", "maps": FILE or null, "emulated", "options"}
RESULT: {"tokens": [[...]], "again": [[...]], "top": [[{token: logprob, ...}, ...], ...], "scores": [[...]], "architecture",
         "loaded_in", "timed": {number: seconds}}; `scores` are the logprobs of each prompt's tokens but the first, if
         "score" is true
FILE: {module: (input, output)} of every linear map of the layers, of the first prompt; for one process alone, which can
have vLLM's kernel that emulates 4-bit floats on a CPU, too
"""

import json
import os
import sys
import time

import psutil

MAPS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def record_maps(llm, prompt, path):
    import torch
    from vllm import SamplingParams

    seen, hooks = {}, []

    def watch(name):
        def hook(_module, inputs, output):
            if name not in seen and inputs[0].shape[0] == len(prompt):
                seen[name] = inputs[0].clone(), (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    def add(model):
        for name, module in model.named_modules():
            if name.endswith(MAPS):
                hooks.append(module.register_forward_hook(watch(name)))

    llm.apply_model(add)
    llm.generate([{"prompt_token_ids": prompt}], SamplingParams(max_tokens=1, detokenize=False), use_tqdm=False)
    for hook in hooks:
        hook.remove()
    torch.save(seen, path)


def main(job_path, result_path):
    with open(job_path) as stream:
        job = json.load(stream)
    from vllm import LLM, SamplingParams

    if job["emulated"]:
        from vllm.model_executor.kernels import linear
        from vllm.platforms.interface import PlatformEnum

        linear._POSSIBLE_NVFP4_KERNELS[PlatformEnum.CPU] = [linear.EmulationNvFp4LinearKernel]
    started = time.monotonic()
    options = {"enforce_eager": True, **job.get("options", {})}
    llm = LLM(
        job["model"],
        dtype=job["dtype"],
        max_model_len=job["max_model_len"],
        seed=0,
        trust_remote_code=job["trust_remote_code"],
        **options,
    )
    loaded = time.monotonic() - started
    if job["maps"]:
        record_maps(llm, job["prompts"][0], job["maps"])
    scored = {"prompt_logprobs": 0} if job["score"] else {}
    wanted = SamplingParams(
        temperature=0.0, max_tokens=job["max_tokens"], logprobs=5, ignore_eos=True, detokenize=False, **scored
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    outputs = llm.generate(prompts, wanted, use_tqdm=False)
    again = llm.generate(prompts, wanted, use_tqdm=False) if job["twice"] else []  # from the prefixes that are cached
    timed = {}
    for count in job["timed"]:
        between = time.monotonic()
        llm.generate(prompts[:count], wanted, use_tqdm=False)
        timed[count] = time.monotonic() - between
    completions = [output.outputs[0] for output in outputs]
    result = {
        "tokens": [list(done.token_ids) for done in completions],
        "top": [
            [{str(token): entry.logprob for token, entry in step.items()} for step in done.logprobs] for done in completions
        ],
        "again": [list(output.outputs[0].token_ids) for output in again],
        "scores": [
            [
                step[token].logprob
                for token, step in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
            ]
            for output in (outputs if job["score"] else ())
        ],
        "architecture": llm.llm_engine.model_config.architecture,
        "loaded_in": loaded,
        "timed": timed,
    }
    with open(result_path, "w") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    # vLLM's own end of its processes can abort this one, after the answer is written.
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(0)
