"""Which quantized forms two engines have kernels for on this CPU, and how fast they decode beside 16-bit weights.

Needs `make model`, and makes the engines' environments. SmolLM2 as DeciLM in vLLM and as GGUF in llama.cpp. A row starts
the engine four times, 16-bit, quantized, quantized, 16-bit, so that its ratios are of one run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.table import Row, Table, once
from benchmarks.tables.judged import MODEL, lbdsl

FORMS = {
    "16-bit": "else keep",
    "W8A8": "layers all quantize(bits=8, activations=8)",
    "W8A16": "layers all quantize(bits=8, group=32)",
    "W4A16": "layers all quantize(bits=4)",
}
W4A16 = {"VLLM_CPU_INT4_W4A8": "0"}
"""vLLM on a CPU computes 4-bit weights with 8-bit activations unless told not to."""
PROMPT, NEW = 128, 64


def exported(form: str, kind: str, work: Path) -> Path:
    recipe = work / f"{form}.lbr"
    recipe.write_text(f"lbr 1\n{FORMS[form]}\n", encoding="utf-8")
    words = ("--yes", "--force", "--no-heal")
    artifact = once(work / form, lambda folder: lbdsl("apply", str(recipe), MODEL, "-o", str(folder), *words))
    return once(work / f"{form}-{kind}", lambda folder: lbdsl("export", str(artifact), "--to", kind, "-o", str(folder)))


def in_vllm(form: str, work: Path, environment: dict[str, str]) -> dict[int, float]:
    """Tokens a second of 1 and of 16 sequences, whose prompts are cached."""
    from tests.engines.vllm_side import serve

    prompts = [[100 + (7 * s + 13 * t) % 40_000 for t in range(PROMPT)] for s in range(16)]
    with tempfile.TemporaryDirectory() as place:
        served = serve(
            exported(form, "decilm", work),
            prompts,
            Path(place),
            max_tokens=NEW,
            max_model_len=512,
            trust_remote_code=True,
            timed=(1, 16),
            environment=environment,
        )
    return {count: count * NEW / seconds for count, seconds in served.timed.items()}


def in_llamacpp(form: str, work: Path, environment: dict[str, str]) -> dict[int, float]:
    from lbdsl.bench.environments import LLAMA_CPP
    from tests.engines.test_llamacpp import run_llamacpp

    python = LLAMA_CPP.install()
    prompt = [100 + 13 * t % 40_000 for t in range(PROMPT)]
    file = exported(form, "gguf", work) / "model.gguf"
    with tempfile.TemporaryDirectory() as place:
        answer = run_llamacpp(python, Path(place), model=str(file), context=512, timed=[prompt, prompt], new=NEW)
    return {1: NEW / answer["decode_seconds"][-1]}


ENGINES = {"vllm": in_vllm, "llamacpp": in_llamacpp}


def row(engine: str, form: str, key: str = "", environment: dict[str, str] | None = None) -> Row:
    def run(work: Path) -> dict[str, float | str]:
        try:
            speeds = [ENGINES[engine](each, work, environment or {}) for each in ("16-bit", form, form, "16-bit")]
        except AssertionError as problem:
            # The first error is the reason; the last ones say that the engine's core failed.
            said = next((line for line in str(problem).splitlines() if "Error: " in line), str(problem))
            return {"note": said.rpartition("Error: ")[2].strip()[:120]}
        found: dict[str, float | str] = {}
        for count in speeds[0]:
            plain, packed = speeds[0][count] + speeds[3][count], speeds[1][count] + speeds[2][count]
            found |= {f"{count} seq": packed / 2, f"ratio {count}": packed / plain}
        return found

    return Row(f"{engine}-{key or form}", run)


TABLE = Table(
    title=f"decoding SmolLM2, {NEW} tokens after {PROMPT}: tokens a second, and the ratio to 16-bit weights",
    columns={"1 seq": ".0f", "ratio 1": ".2f", "16 seq": ".0f", "ratio 16": ".2f", "note": ""},
    rows=[
        row("vllm", "W8A8"),
        row("vllm", "W4A16", environment=W4A16),
        row("vllm", "W4A16", "W4A8"),
        row("vllm", "W8A16"),
        row("llamacpp", "W8A8"),
        row("llamacpp", "W8A16"),
        row("llamacpp", "W4A16"),
    ],
    measures=("lbdsl/packing", "lbdsl/export"),
)
