"""Plans of SmolLM2 for budgets of its cache: joint KL on text that neither scored nor chose, before healing.

Needs `make model`. One list of alternatives for all. `until`: a ranking of windows, as few as reach the budget. `scores`:
the integer program over scores of single layers; `greedy`: one change after the other, measured beside those before it;
`screen`: the program over estimated scores and pair terms. `search`: the best plans of a program measured jointly, and
improved. `plans` are those measured as a whole, `minutes` those of processors in `lbdsl plan`, the joint loss of its result
included: scores are measured before the first row, and estimated in that of a screen. `pydoc` and `wikitext` are the KL on
8 sequences of each; `over scores` is how much more that is on both than with the plan of `scores`, its error that of the
ratio, from pairs of sequences. `screen-scores`: the rank correlation (Spearman) of estimated scores with measured ones over
all changes of all layers, and their share of the processor time that measuring takes. `while`: as many
dropped attentions as keep the loss within 0.05 nats.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.table import CHANGING, CHOOSING, JUDGING, ROOT, Row, Table, once, uses
from benchmarks.tables.judged import MODEL, lbdsl

BUDGETS = (60, 50, 40, 30, 25)
ALTERNATIVES = ("swa(window=256, sinks=4)", "kv_heads(1)", "swa(window=256, sinks=4) + kv_heads(1)", "drop")
WAYS = {
    "scores": "tries = 0",
    "greedy": "strategy = greedy; tries = 200",
    "screen": "strategy = screen; tries = 0",
    "search": "tries = 100",
    "screen-search": "strategy = screen; tries = 100",
}
MEASURE = "measure {{ tokens = 4Ki; seq = 1Ki; {way} }}"


def choose(budget: int, way: str) -> str:
    among = ", ".join(("keep", *ALTERNATIVES))
    lines = f"choose for layers all among {among} minimizing kl subject to kv(8Ki) <= {budget}%\nelse keep"
    return f"{MEASURE.format(way=way)}\n{lines}"


def until(budget: int) -> str:
    action = ALTERNATIVES[0]
    return f"{MEASURE.format(way='tries = 0')}\nlowest by kl({action}) until kv(8Ki) <= {budget}% {action}\nelse keep"


TEXTS, SEQUENCES, SEQ = ("pydoc", "wikitext"), 8, 1024
Sums = Mapping[str, list[tuple[float, int]]]
"""By text: the KL of each sequence, as a sum over its tokens, and their number."""


def judge(saved: Path, cache: Path, out: Path) -> None:
    """Write the `Sums` of a saved plan, on text that neither scores nor chooses."""
    from lbdsl.api.applying import inputs_for
    from lbdsl.core.digest import digest_of
    from lbdsl.core.measurement import Request
    from lbdsl.measure.runs import Measuring
    from lbdsl.measure.scores import measure_plans
    from lbdsl.measure.store import MODEL_LAYER, open_store
    from lbdsl.plan.file import load_plan
    from lbdsl.recipe.schema import Evaluate
    from lbdsl.session.model import OpenModel
    from lbdsl.session.options import RunOptions
    from lbdsl.session.saved_recipe import planned_recipe
    from lbdsl.session.texts import eval_blocks

    plan, bench, found = load_plan(saved).unwrap(), OpenModel(MODEL, RunOptions(cache_dir=cache)), {}
    digest = digest_of([layer.change.to_json() for layer in plan.layers])
    changes = {layer.index: layer.change for layer in plan.layers if layer.changed}
    statistics = inputs_for(plan, planned_recipe(plan), bench).statistics
    asked = Evaluate(data=tuple(f"builtin:{text}" for text in TEXTS), tokens=SEQUENCES * SEQ, seq=SEQ)
    for text, blocks in zip(TEXTS, eval_blocks(asked, plan.measure, None, bench, ROOT), strict=True):
        fingerprint = bench.fingerprint(blocks.digest)
        with open_store(cache) as store:
            model = lambda: bench.measured_base  # noqa: E731
            measuring = Measuring(model, blocks, store, fingerprint, statistics=statistics)
            measure_plans(measuring, {digest: changes}, ("kl",))
            sums = store.get(fingerprint, Request("kl", f"joint {digest}", MODEL_LAYER))
        found[text] = [(sums[row].total, sums[row].tokens) for row in sorted(sums)]
    out.write_text(json.dumps(found), encoding="utf-8")


def compared(mine: Sums, other: Sums) -> dict[str, float]:
    """The KL by text with its error, and by how much it is more than the other's on all of them."""
    from lbdsl.core.measurement import clustered_mean
    from lbdsl.core.units import Unit

    figures: dict[str, float] = {}
    for text in TEXTS:
        sums, tokens = zip(*mine[text], strict=True)
        found = clustered_mean(sums, tokens, Unit.NATS)
        figures |= {text: found.value, f"{text} error": found.stderr}
    pairs = [(a, b) for text in TEXTS for (a, _), (b, _) in zip(mine[text], other[text], strict=True)]
    more = clustered_mean([a - b for a, b in pairs], [b for _, b in pairs], Unit.RATIO)
    return {**figures, "over scores": more.value, "over error": more.stderr}


def processor_seconds() -> float:
    """Those of processes that this one has started, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def with_scores(cache: Path, work: Path) -> Path:
    """A new cache folder with all scores of single layers and nothing else, so that minutes are those of choosing."""
    from lbdsl.core.digest import digest_text

    text = f"lbr 1\n{choose(50, WAYS['scores'])}\n"
    scored = work / f"scored-{digest_text(text)[:8]}"
    recipe = scored.with_suffix(".lbr")
    recipe.write_text(text, encoding="utf-8")
    once(scored, lambda out: lbdsl("measure", str(recipe), MODEL, "--json", "--cache-dir", str(out)))
    shutil.rmtree(cache, ignore_errors=True)
    return Path(shutil.copytree(scored, cache))


def plan_timed(name: str, recipe: str, work: Path, out: Path) -> None:
    path, cache = work / f"{name}.lbr", with_scores(work / f"{name}.cache", work)
    path.write_text(f"lbr 1\n{recipe}\n", encoding="utf-8")
    start = processor_seconds()
    words = ("--json", "-o", str(work / f"{name}.lbplan"), "--cache-dir", str(cache))
    plan = json.loads(lbdsl("plan", str(path), MODEL, *words).stdout)
    minutes = (processor_seconds() - start) / 60
    kept, whole = (plan[when]["kv_bytes"]["8192"] for when in ("after", "before"))
    figures = {"kv": kept / whole, "plans": (plan["choice"] or {}).get("spent", 0), "minutes": minutes}
    out.write_text(json.dumps(figures), encoding="utf-8")


def planned(budget: int, way: str, recipe: str, work: Path) -> dict[str, float]:
    work.mkdir(parents=True, exist_ok=True)
    if way != "scores":
        uses(work / f"scores-{budget}.json")
    name, sums = f"{way}-{budget}", {}
    figures = json.loads(once(work / f"{name}.json", partial(plan_timed, name, recipe, work)).read_text(encoding="utf-8"))
    for of in (way, "scores"):
        saved = work / f"{of}-{budget}.lbplan"
        judged = once(saved.with_suffix(".sums"), partial(judge, saved, work / f"{of}-{budget}.cache"))
        sums[of] = json.loads(judged.read_text(encoding="utf-8"))
    return compared(sums[way], sums["scores"]) | figures


def screened(work: Path) -> dict[str, float]:
    import numpy

    values, seconds = [], []
    for way in ("screen", "scores"):
        recipe, kept = work / f"screen-scores-{way}.lbr", work / f"screen-scores-{way}.json"
        work.mkdir(parents=True, exist_ok=True)
        recipe.write_text(f"lbr 1\n{choose(50, WAYS[way])}\n", encoding="utf-8")

        def timed(out: Path, recipe: Path = recipe) -> None:
            cache, start = recipe.with_suffix(".cache"), processor_seconds()
            shutil.rmtree(cache, ignore_errors=True)
            scores = json.loads(lbdsl("measure", str(recipe), MODEL, "--json", "--cache-dir", str(cache)).stdout)["scores"]
            out.write_text(json.dumps({"seconds": processor_seconds() - start, "scores": scores}), encoding="utf-8")

        found = json.loads(once(kept, timed).read_text(encoding="utf-8"))
        seconds.append(found["seconds"])
        values.append([score["value"] for score in found["scores"] if score["action"]])
    ranks = [numpy.argsort(numpy.argsort(found)) for found in values]
    return {"spearman": float(numpy.corrcoef(ranks[0], ranks[1])[0, 1]), "cost": seconds[0] / seconds[1]}


def held(work: Path) -> dict[str, float]:
    work.mkdir(parents=True, exist_ok=True)
    recipe, cache = work / "while.lbr", with_scores(work / "while.cache", work)
    lines = "lowest by kl(drop) while nll <= 0.05 drop\nelse keep"
    recipe.write_text(f"lbr 1\n{MEASURE.format(way='tries = 0')}\n{lines}\n", encoding="utf-8")
    start = processor_seconds()
    done = lbdsl("plan", str(recipe), MODEL, "--json", "--cache-dir", str(cache))
    tried = set(re.findall(r"measuring rule 1 with (\d+) layer", done.stderr))
    taken = len(json.loads(done.stdout)["rules"][0]["claims"])
    return {"plans": len(tried), "minutes": (processor_seconds() - start) / 60, "layers": taken}


def rows() -> list[Row]:
    found = [Row("screen-scores", screened), Row("while", held)]
    for budget in BUDGETS:
        recipes = {name: choose(budget, way) for name, way in WAYS.items()} | {"until": until(budget)}
        found += [Row(f"{way}-{budget}", partial(planned, budget, way, recipe)) for way, recipe in recipes.items()]
    return found


TABLE = Table(
    title="SmolLM2 within a budget of its cache at 8Ki tokens: joint KL on other text, nats/token",
    columns={text + what: ".4f" for text in TEXTS for what in ("", " error")}
    | {
        "over scores": "+.1%",
        "over error": ".1%",
        "kv": ".1%",
        "plans": ".0f",
        "minutes": ".1f",
        "spearman": ".3f",
        "cost": ".2f",
        "layers": "d",
    },
    rows=rows(),
    measures=(*CHANGING, *JUDGING, *CHOOSING),
)
