"""Fuzzing the language: recipes made from its words, mangled recipes, and bytes. No traceback, no hang.

    python -m tests.fuzz 1000000 --processes 2      prints one line of JSON, and exits with 1 when something was found

Each input goes through `check` on a model of 12 layers, every tenth through the formatter and `--fix` too. What raises, or
takes a second of the processor, is written to `fuzz-found/` with its seed. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import sys
import time
import traceback
from pathlib import Path

from lbdsl.actions import actions
from lbdsl.api.checking import check_recipe, on_model
from lbdsl.api.fixing import fix_text
from lbdsl.editor.pages import FUNCTIONS
from lbdsl.language.format import format_text
from lbdsl.language.words import keywords
from lbdsl.metrics import metrics
from lbdsl.recipe.load import recipe_from_bytes
from lbdsl.recipe.settings import CHOICES, LOSSES, METHODS, SETTINGS
from lbdsl.recipe.variables import TYPES
from tests.plan_cases import llama_facts

FACTS = llama_facts(layers=12)
ROOT = Path(__file__).parents[1]
SLOW = 1.0
"""Seconds of processor time that no input of these sizes may take."""

WORDS = sorted({*keywords(), *actions(), *metrics(), *METHODS, *LOSSES, *CHOICES["metrics"], *TYPES, *FUNCTIONS})
WORDS += sorted({key for rows in SETTINGS.values() for key in rows})
WORDS += sorted({name for action in actions().values() for name in action.parameters()})
WORDS += ["model.layers", "model.family", "attention", "mlp", "block", "rank", "alpha", "sensitivity", "true", "false"]
WORDS += ["learned", "mix", "self"]
SIGNS = [
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    ",",
    ";",
    "\n",
    "=",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "..",
    ":",
    "$x",
    "@g",
    '~"*.q_proj"',
    "~",
    "%",
    "#",
    '"text"',
    '"',
    "'",
    "\\",
    "?",
    "0",
    "1",
    "8",
    "0-3",
    "30%",
    "4Ki",
    "10M",
    "2GiB",
    "1e-3",
    "0.1",
    "-1",
    "9" * 19,
    "\t",
    "  ",
    "\r\n",
    "é",
    "\u2028",
    "😀",
    "\x00",
]


def seeds_of_text() -> list[bytes]:
    """Recipes of the project, good and bad."""
    found = [path.read_bytes() for folder in ("recipes", "examples", "tests") for path in (ROOT / folder).rglob("*.lbr")]
    for page in (ROOT / "tests" / "spec").glob("*.md"):
        found += [text.encode() for text in re.findall(r"```lbr\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)]
    return [text for text in found if len(text) < 2000]


def made(rng: random.Random, texts: list[bytes]) -> bytes:
    """One input."""
    way = rng.random()
    if way < 0.35:
        parts = [rng.choice(WORDS) if rng.random() < 0.55 else rng.choice(SIGNS) for _ in range(rng.randint(1, 40))]
        return rng.choice((" ", " ", "")).join(parts).encode("utf-8", "surrogatepass")
    text = rng.choice(texts)
    if way < 0.75:
        words = re.findall(rb"\w+|\s+|[^\w\s]", text)
        for _ in range(rng.randint(1, 6)):
            if not words:
                break
            at = rng.randrange(len(words))
            change = rng.randrange(5)
            if change == 0:
                del words[at]
            elif change == 1:
                words.insert(at, rng.choice(WORDS + SIGNS).encode("utf-8", "surrogatepass"))
            elif change == 2:
                words[at] = rng.choice(words)
            elif change == 3:
                words[at:at] = words[at : at + rng.randint(1, 12)]
            else:
                words = words[:at]
        return b"".join(words)
    data = bytearray(text)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(4)
        if change == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif change == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 6))
        elif change == 2:
            del data[at : at + rng.randint(1, 20)]
        else:
            other = rng.choice(texts)
            data[at:at] = other[rng.randrange(len(other) + 1) :][:80]
    return bytes(data)


def tried(number: int, data: bytes) -> tuple[float, str | None]:
    """Seconds of processor time, and the traceback if one came."""
    started = time.process_time()
    try:
        on_model(recipe_from_bytes(data, "fuzz.lbr", {}), FACTS)
        if number % 10 == 0:
            text = data.decode("utf-8", "replace")
            format_text(text, "fuzz.lbr")
            fix_text(text, lambda changed: check_recipe(changed).diagnostics)
    except Exception:
        return time.process_time() - started, traceback.format_exc()
    return time.process_time() - started, None


def run(job: tuple[int, int]) -> dict[str, float]:
    """`count` inputs from one seed."""
    seed, count = job
    rng, texts = random.Random(seed), seeds_of_text()
    worst, raised, slow = 0.0, 0, 0
    for number in range(count):
        data = made(rng, texts)
        seconds, problem = tried(number, data)
        worst = max(worst, seconds)
        if problem or seconds > SLOW:
            raised += problem is not None
            slow += problem is None
            folder = Path("fuzz-found")
            folder.mkdir(exist_ok=True)
            (folder / f"{seed}-{number}.lbr").write_bytes(data)
            (folder / f"{seed}-{number}.txt").write_text(problem or f"{seconds:.2f} s\n")
    return {"inputs": count, "raised": raised, "slow": slow, "worst_seconds": worst}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    portion = 10_000
    jobs = [
        (chosen.seed + number, min(portion, chosen.count - number * portion))
        for number in range(-(-chosen.count // portion))
    ]
    started = time.monotonic()
    total = {"inputs": 0.0, "raised": 0.0, "slow": 0.0, "worst_seconds": 0.0}
    with multiprocessing.Pool(chosen.processes, maxtasksperchild=4) as pool:
        for found in pool.imap_unordered(run, jobs):
            for key in ("inputs", "raised", "slow"):
                total[key] += found[key]
            total["worst_seconds"] = max(total["worst_seconds"], found["worst_seconds"])
            if sys.stderr.isatty() or total["inputs"] % 100_000 == 0:
                print(f"{total['inputs']:.0f} of {chosen.count}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(
        json.dumps(
            {
                **{key: round(value, 3) for key, value in total.items()},
                "seconds": round(time.monotonic() - started, 1),
                "seed": chosen.seed,
            }
        )
    )
    return 1 if total["raised"] or total["slow"] else 0


if __name__ == "__main__":
    sys.exit(main())
