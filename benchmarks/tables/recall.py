"""`recall` of SmolLM2 with one layer windowed at 256 tokens (four sink tokens), by kind of question, and of plans by it.

Needs `make model`. A layer's row has the rise of the loss in nats per token of an answer on 80 questions of
`builtin:recall` in texts of 512 and 1Ki tokens, over all kinds with its error and of each kind. `base` has the shares that
it finds. `without-KIND`: eight layers kept by the other kinds, the rest windowed; what is left of the answers of each
kind on 80 other questions. `keeps-by-...`: with eight layers kept by all kinds, by `kl`, and by `nll(drop)`, on 8Ki tokens
of pydoc; by a screen of recall, and by 20 questions instead of 80. `python -m benchmarks.tables.recall FILE.png` draws the
layers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import CHANGING, CHOOSING, JUDGING, ROOT, Row, Table, once, rows_of
from benchmarks.tables.judged import MODEL

ACTION = "swa(window=256, sinks=4)"
LAYERS, KEPT = 30, 8
KINDS = ("numbers", "words", "latest", "passage", "table")


def recipe(rules: str, settings: str = "") -> str:
    return f'lbr 1\nmeasure {{ data = "builtin:pydoc"; tokens = 8Ki{settings} }}\n{rules}\n'


def answers(models: Mapping[str, Iterable[int]], part: str) -> dict[str, Any]:
    """What models with these layers windowed lose of the answers of one part of the questions, by name: the value, its
    error, and by kind (asked, found by the base, found, rise)."""
    from lbdsl.actions import actions
    from lbdsl.core.measurement import Request
    from lbdsl.data.split import TextPart
    from lbdsl.measure.store import MODEL_LAYER
    from lbdsl.measure.taken import NO_STATISTICS
    from lbdsl.plan.lengths import with_lengths
    from lbdsl.recipe.load import recipe_from_text
    from lbdsl.session.asking import Asking, recall_questions_of
    from lbdsl.session.model import OpenModel
    from lbdsl.solve.case import Case

    bench = OpenModel(str(ROOT / MODEL))
    path = str(ROOT / "recall.lbr")
    read = recipe_from_text(recipe(f"layers all {ACTION}"), path).unwrap()
    measure = with_lengths(Case(read, bench.facts)).unwrap().recipe.measure
    questions = recall_questions_of(measure, bench, bench.place(path), TextPart[part])
    action = actions()["swa"].model_validate({"window": 256, "sinks": 4})
    change = {layer: action.under(bench.facts, layer) for layer in range(LAYERS)}
    changes = {
        Request("recall", f"windows {sorted(layers)}", MODEL_LAYER): {
            layer: one for layer in layers if (one := change[layer]) is not None
        }
        for layers in models.values()
    }
    base, changed = Asking(questions, bench).answers(changes, NO_STATISTICS, "asking")
    found = {}
    for name, request in zip(models, changes, strict=True):
        cost, kinds = questions.cost(base, changed[request]), questions.by_kind(base, changed[request])
        of_kind = {kind: [each.asked, each.base, each.found, each.rise] for kind, each in kinds.items()}
        found[name] = {"value": cost.value, "error": cost.stderr, "kinds": of_kind}
    return found


def asked(work: Path, name: str, layers: Iterable[int], part: str = "JOINT") -> dict[str, Any]:
    """A whole plan."""
    found = once(work / f"{name}.json", lambda path: path.write_text(json.dumps(answers({name: list(layers)}, part))))
    return dict(json.loads(found.read_text())[name])


def by_layer(work: Path) -> dict[str, Any]:
    """Each layer alone: the base is asked once for all."""
    models = {str(layer): [layer] for layer in range(LAYERS)}
    found = once(work / "layers.json", lambda path: path.write_text(json.dumps(answers(models, "SCORE"))))
    return dict(json.loads(found.read_text()))


def scores(work: Path, name: str, score: str, settings: str) -> list[dict[str, Any]]:
    """What `lbdsl measure --json` says of every layer."""
    from benchmarks.tables.judged import lbdsl

    def make(path: Path) -> None:
        path.with_suffix(".lbr").write_text(recipe(f"lowest 1 by {score} keep", settings))
        path.write_text(lbdsl("measure", str(path.with_suffix(".lbr")), MODEL, "--json").stdout)

    return list(json.loads(once(work / f"{name}.scores.json", make).read_text())["scores"])


def of_layer(layer: int) -> Row:
    def run(work: Path) -> Mapping[str, float]:
        found = by_layer(work)[str(layer)]
        rises = {name: rise for name, (_, _, _, rise) in found["kinds"].items()}
        return {"recall": found["value"], "error": found["error"], **rises}

    return Row(f"layer-{layer}", run)


def kept_by(work: Path, kinds: Iterable[str]) -> list[int]:
    """The layers whose window costs the most in the mean of these kinds."""
    found = by_layer(work)
    rises = {layer: [found[str(layer)]["kinds"][kind][3] for kind in kinds] for layer in range(LAYERS)}
    return sorted(sorted(rises, key=lambda layer: -sum(rises[layer]))[:KEPT])


def left(found: Mapping[str, Any], kind: str) -> float:
    _, base, now, _ = found["kinds"][kind]
    return now / base if base else float("nan")


def plan_row(key: str, kept: Any) -> Row:
    def run(work: Path) -> Mapping[str, Any]:
        layers = kept(work)
        found = asked(work, key, set(range(LAYERS)) - set(layers))
        figures = {kind: left(found, kind) for kind in KINDS}
        return {"kept": " ".join(map(str, layers)), "recall": found["value"], "error": found["error"], **figures}

    return Row(key, run)


def kept_by_score(name: str, score: str, settings: str = "") -> Row:
    def kept(work: Path) -> list[int]:
        # The base's own loss is of no layer.
        of_layers = {row["layer"]: row["value"] for row in scores(work, name, score, settings) if row["layer"] >= 0}
        return sorted(sorted(of_layers, key=lambda layer: -of_layers[layer])[:KEPT])

    return plan_row(f"keeps-by-{name}", kept)


def base_row(work: Path) -> Mapping[str, float]:
    found = asked(work, "base", [])
    return {kind: base / count for kind, (count, base, _, _) in found["kinds"].items()}


TABLE = Table(
    title="recall of SmolLM2 with windows of 256 tokens: rises in nats an answer's token by layer; of plans what is left",
    columns={"recall": "+.3f", "error": ".3f"} | dict.fromkeys(KINDS, ".2f") | {"kept": "s"},
    rows=[
        *(of_layer(layer) for layer in range(LAYERS)),
        Row("base", base_row),
        plan_row("keeps-by-recall", lambda work: kept_by(work, KINDS)),
        *(
            plan_row(f"without-{kind}", lambda work, kind=kind: kept_by(work, [one for one in KINDS if one != kind]))
            for kind in KINDS
        ),
        kept_by_score("kl", f"kl({ACTION})"),
        kept_by_score("drop", "nll(drop)"),
        kept_by_score("screen", f"recall({ACTION})", "; strategy = screen"),
        kept_by_score("screen-20", f"recall({ACTION})", "; strategy = screen; recall_questions = 20"),
        kept_by_score("recall-20", f"recall({ACTION})", "; recall_questions = 20"),
    ],
    measures=(*CHANGING, *JUDGING, *CHOOSING),
)


def draw(path: Path) -> None:
    """The rise of each kind by layer."""
    from lbdsl.core.pictures import picture

    done = {key: row["figures"] for key, row in rows_of("recall").items() if key.startswith("layer-")}
    with picture(path, figsize=(8, 3)) as (figure, axes):
        rises = [[done[f"layer-{layer}"][kind] for layer in range(LAYERS)] for kind in KINDS]
        shown = axes.imshow(rises, aspect="auto", cmap="viridis", vmin=0, vmax=1)
        axes.set_yticks(range(len(KINDS)), KINDS)
        axes.set_xlabel("layer windowed at 256 tokens")
        axes.set_title("SmolLM2-135M: rise of the loss on answers, nats a token")
        figure.colorbar(shown)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
