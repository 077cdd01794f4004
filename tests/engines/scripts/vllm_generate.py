"""Run by the engine's own Python: greedy tokens and their top logprobs from vLLM, as JSON.

    vllm_generate.py JOB RESULT

JOB: {"model", "prompts": [[token, ...], ...], "max_tokens", "max_model_len", "dtype", "trust_remote_code", "twice",
      "score", "options"}
RESULT: {"tokens": [[...]], "again": [[...]], "top": [[{token: logprob, ...}, ...], ...], "scores": [[...]], "architecture",
         "loaded_in", "seconds", "again_seconds"}; `scores` are the logprobs of each prompt's tokens but the first, if
         "score" is true
"""

import json
import sys
import time


def main(job_path, result_path):
    with open(job_path) as stream:
        job = json.load(stream)
    from vllm import LLM, SamplingParams

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
    scored = {"prompt_logprobs": 0} if job["score"] else {}
    wanted = SamplingParams(
        temperature=0.0, max_tokens=job["max_tokens"], logprobs=5, ignore_eos=True, detokenize=False, **scored
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    outputs = llm.generate(prompts, wanted, use_tqdm=False)
    between = time.monotonic()
    again = llm.generate(prompts, wanted, use_tqdm=False) if job["twice"] else []  # from the prefixes that are cached
    again_seconds = time.monotonic() - between
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
        "seconds": between - started - loaded,
        "again_seconds": again_seconds,
    }
    with open(result_path, "w") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
