"""Tables in the docs pages that are generated from the code."""

from __future__ import annotations

import ast
import inspect
import math
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from benchmarks import table as benchmark
from docs.language_tables import LANGUAGE_TABLES
from lbdsl.actions import actions
from lbdsl.cost.facts import ModelFacts
from lbdsl.export import exporters
from lbdsl.export.expresses import Can, Expresses, Fields
from lbdsl.families import FAMILIES, Family
from lbdsl.families.engines import Lacks
from lbdsl.families.windows import NO_WINDOWS, OneWindow, WindowsByType
from lbdsl.model.layout import layout_of
from lbdsl.parts import Slot
from lbdsl.recipe.load import recipe_from_text


def families() -> str:
    lines = [
        "| `model_type` | models | attention | MLPs | norms | own windows | GGUF source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in FAMILIES.values():
        lines.append(
            f"| `{row.model_type}` | {row.examples} | {_attention(row)} | {_mlps(row)} | {_norms(row)} | "
            f"{'no' if row.windows is NO_WINDOWS else 'yes'} | {'yes' if row.gguf.read else 'no'} |"
        )
    return "\n".join(lines) + "\n"


SHAPE = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
}


def family_actions() -> str:
    """Which calls of actions a model of each family takes in all layers, and in how many of them otherwise."""
    facts = {}
    for name, row in FAMILIES.items():
        rope = {"rope_type": "yarn", "factor": 4.0, **dict.fromkeys(row.rope_needs, 8192)}
        fields = {**SHAPE, **({"rope_parameters": rope} if row.rope_needs else {})}
        facts[name] = layout_of({"model_type": name, **fields}).facts("bfloat16")
    calls = [call for action in actions().values() for call in (action.example, *action.examples) if not action.keeps]
    cells = {call: [_takes(call, facts[name]) for name in FAMILIES] for call in calls}
    every = [f"`{call}`" for call, found in cells.items() if set(found) == {"yes"}]
    other: dict[tuple[str, ...], list[str]] = {}
    for call, found in cells.items():
        if f"`{call}`" not in every:
            other.setdefault(tuple(found), []).append(f"`{call}`")
    lines = [f"In all layers of all families: {', '.join(every)}. Otherwise:\n"]
    lines += [f"| family | {' | '.join(', '.join(each) for each in other.values())} |", f"|---{'|---' * len(other)}|"]
    lines += [f"| `{name}` | {' | '.join(found)} |" for name, *found in zip(FAMILIES, *other, strict=True)]
    return "\n".join(lines) + "\n"


def _takes(call: str, facts: ModelFacts) -> str:
    (action,) = recipe_from_text(f"else {call}\n").unwrap().rules[0].actions
    changes = [
        None if any(d.is_error for d in action.check(facts, i)) else action.under(facts, i) for i in range(facts.layers)
    ]
    stored = [change for change in changes if change is not None]
    if any(storage.misfit(tensor) for change in stored for tensor, storage in change.spec.matrices(facts)):
        return "not experts"
    if action.patched and facts.norms(Slot.MIXER)[1] is not None:
        return "without the patch"
    return "yes" if len(stored) == facts.layers else f"{len(stored)} of {facts.layers} layers" if stored else "no"


def family_engines() -> str:
    """What the tests of engines run of each family, by the names of their cases and of the tests themselves."""
    ran: dict[tuple[str, bool], list[str]] = {}
    for path in sorted((benchmark.ROOT / "tests" / "engines").glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named: dict[str, Any] = {
            ast.unparse(target): node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        }
        cases = named.get("CASES")
        for key, case in zip(cases.keys, cases.values, strict=True) if cases is not None else ():
            said = re.sub(r"^\w+( with experts)?,? ", "", key.value)
            ran.setdefault((case.elts[0].value, False), []).append(said)
        for test in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            marks = [mark.args for mark in test.decorator_list if isinstance(mark, ast.Call) and len(mark.args) == 2]
            for found in (of for name, of in marks if ast.unparse(name) == "'family'"):
                families: Any = named.get(ast.unparse(found), found)
                names: list[Any] = families.keys if isinstance(families, ast.Dict) else families.elts
                for name in names:
                    said = re.sub("_serves?_", ": ", test.name.removeprefix("test_").removeprefix("the_")).replace("_", " ")
                    ran.setdefault((name.value, "llamacpp" not in test.name), []).append(said.removeprefix("llamacpp: "))
    lines = ["| family | llama.cpp | vLLM |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {' | '.join('; '.join(ran.get((name, vllm), ['nothing'])) for vllm in (False, True))} |"
        for name in FAMILIES
    ]
    return "\n".join(lines) + "\n"


def results(name: str) -> str:
    """The finished rows of benchmarks/tables/NAME.py, as a Markdown table, with the days and machines of its rows."""
    rows = benchmark.rows_of(name)
    if not rows:
        return f"No row of `python -m benchmarks.table {name}` was run yet.\n"
    table = "\n".join(benchmark.lines(benchmark.table_of(name), rows, markdown=True)) + "\n"
    places: dict[str, dict[str, str]] = {}
    for key, row in rows.items():
        machine = row["machine"]
        memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
        place = f"{machine['cpu']}, {machine['cores']} cores, {memory}, torch {row['versions']['torch']}"
        places.setdefault(place, {})[key] = row["started"][:10]
    most = max(places, key=lambda place: len(places[place]), default="")
    lines = (
        f"{' to '.join(sorted({min(days.values()), max(days.values())}))} on {place}"
        + ("" if len(places) == 1 else ": all others" if place == most else f": {', '.join(sorted(days))}")
        for place, days in places.items()
    )
    return table + "".join(f"\nMeasured {line}.\n" for line in sorted(lines))


def figure(named: str) -> str:
    """`TABLE/KEY FIGURE` as its table shows it, or `TABLE/KEY FIGURE ± FIGURE`. Raises ValueError where there is none."""
    row, _, wanted = named.partition(" ")
    table, _, key = row.partition("/")
    if table not in benchmark.names() or key not in benchmark.rows_of(table):
        raise ValueError(f"`{named}`: there is no row {row} in benchmarks/results")
    figures, columns = benchmark.rows_of(table)[key]["figures"], benchmark.table_of(table).columns
    missing = [name for name in wanted.split(" ± ") if name not in figures or name not in columns]
    if missing:
        raise ValueError(f"`{named}`: {row} has no figure `{missing[0]}`")
    value, *error = (format(figures[name], columns[name]).replace("%", " %") for name in wanted.split(" ± "))
    return " ± ".join([value, *(one.removesuffix(" %") for one in error)])


def healing_curve() -> str:
    """Loss on both texts, the mean over seeds, against tokens of the best mixture; and two lines through it, drawn on to
    10M tokens."""
    import numpy

    table = runpy.run_path(str(benchmark.HOME / "tables" / "healing.py"))
    rows = f"{table['BEST']}-distill-{table['BY']}-*k*"
    points: dict[int, list[list[float]]] = {}
    for row in benchmark.rows_of("healing").values():
        if not fnmatchcase(row["key"], rows):
            continue
        figures = row["figures"]
        points.setdefault(figures["tokens"], []).append([math.log1p(figures[text]) for text in ("wikitext", "pydoc")])
    means = {tokens: numpy.mean(seeds, axis=0) for tokens, seeds in points.items()}
    tokens, losses = zip(*sorted(means.items()), strict=True)
    doublings = numpy.log2(tokens)
    lines = ["| tokens | wikitext, nats | pydoc, nats |", "|---:|---:|---:|"]
    lines += [
        f"| {count} | {wikitext:.3f} | {pydoc:.3f} |" for count, (wikitext, pydoc) in zip(tokens, losses, strict=True)
    ]
    if len(tokens) > 2:
        far = math.log2(1e7)
        straight, power = [], []
        for text in zip(*losses, strict=True):
            slope, start = numpy.polyfit(doublings, text, 1)
            straight.append(f"{max(0.0, start + slope * far):.2f}")
            slope, start = numpy.polyfit(doublings, numpy.log(text), 1)
            power.append(f"{math.exp(start + slope * far):.2f}")
        lines.append(f"| 10M, if each doubling takes as much | {' | '.join(straight)} |")
        lines.append(f"| 10M, if each doubling takes the same share | {' | '.join(power)} |")
    return "\n".join(lines) + "\n"


def _attention(row: Family) -> str:
    names = {tensor.name for tensor in row.rows["attention"]}
    words = ["fused qkv" if any("qkv_proj" in name for name in names) else "q, k, v"]
    if any("q_norm" in name for name in names):
        words.append("normed queries and keys")
    biased = [tensor for tensor in row.rows["attention"] if tensor.name.endswith("proj.bias")]
    if biased:
        words.append("biases" if biased[0].when is None else f"biases with `{biased[0].when}`")
    if row.multipliers.residual:
        words.append("multipliers")
    if row.attention_softcap:
        words.append("capped scores (eager attention)")
    if "gated_delta_net" in row.rows:
        words.append("a gate; gated delta nets in most layers")
    return ", ".join(words)


def _mlps(row: Family) -> str:
    words = {"gated_mlp": "gated", "moe": "experts"}
    return " or ".join(word for kind, word in words.items() if kind in row.rows)


def _norms(row: Family) -> str:
    before, after = row.norms[Slot.MIXER]
    return "before and after" if before and after else "before" if before else "after"


def expresses() -> str:
    """Table of what each format can express about a layer, from its exporter's declaration."""
    said = {kind: _sayings(exporter.expresses) for kind, exporter in exporters().items()}
    rows = dict.fromkeys(name for kind in said.values() for name in kind)
    lines = [f"| a layer's | {' | '.join(f'`{kind}`' for kind in said)} |", f"|---{'|---' * len(said)}|"]
    lines += [f"| {row} | {' | '.join(kind.get(row, 'no') for kind in said.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def _sayings(expresses: Expresses) -> dict[str, str]:
    found: dict[str, str] = {}
    for slot, other in ((Slot.MIXER, "ffn"), (Slot.FFN, "mixer")):
        here, both = slot.value in expresses.empty, "block" in expresses.empty
        found[f"`{slot}` may be gone"] = "yes" if here else f"only with the `{other}`" if both else "no"
    for slot in Slot:
        fields: dict[str, dict[str, list[str]]] = {}
        for kind, of_kind in expresses.kinds(slot).items():
            found[f"`{slot}` of kind `{kind}`"] = "yes"
            for path, words in _words(of_kind):
                fields.setdefault(f"`{slot}.{path}`", {}).setdefault(words, []).append(f"`{kind}`")
        for path, said in fields.items():
            found[path] = ", ".join(
                f"{words} ({', '.join(kinds)})" if said.keys() - {words} else words for words, kinds in said.items()
            )
    return found


def _words(fields: Fields, before: str = "") -> Iterator[tuple[str, str]]:
    for name, can in fields.items():
        if isinstance(can, Can):
            yield before + name, can.words
        else:
            yield from _words(can, f"{before}{name}.")


def serving() -> str:
    """Table of each family's support in engines, from the family's declaration."""
    columns = (
        "`decilm`",
        "`gguf`",
        "`gguf`, parts gone or sizes by layer",
        "`gguf`, windows",
        "`granite`",
        "`native`, windows",
        "`vllm`",
    )
    lines = [f"| family | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    for name, row in FAMILIES.items():
        graph = row.gguf.graph
        cells = (
            _or_lacks(row.decilm),
            f"`{graph.name}`",
            _or_lacks(row.gguf.deci or "`deci`"),
            f"`{graph.name}`" if graph.windows else _or_lacks(row.gguf.granite_swa or "`granite_swa`"),
            "yes" if row.granite_swa else "no",
            _native_windows(row),
            _or_lacks(row.vllm),
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _or_lacks(value: object) -> str:
    if isinstance(value, Lacks):
        return f"no: {value.what}"
    return value if isinstance(value, str) else "yes"


def _native_windows(row: Family) -> str:
    if isinstance(row.windows, WindowsByType):
        return "in some layers" if not row.rope_by_layer_type else "in layers with a native window"
    every = ["in all layers"] if isinstance(row.windows, OneWindow) else []
    other = [f"as `{row.windowed_as.model_type}`{', without biases' if row.flags else ''}"] if row.windowed_as else []
    return "; ".join(every + other) or "no"


def exports() -> str:
    parts = []
    for kind, exporter in exporters().items():
        parts.append(f"### `{kind}`\n\n{inspect.getdoc(exporter)}\n")
    # The paragraphs of a docstring (What, Engine, Limits, Source) become list items.
    text = "\n".join(parts)
    return re.sub(r"^(What|Engine|Limits|Source): ", r"- **\1**: ", text, flags=re.MULTILINE)


OWN_NAME = {"serving": "throughput"}
"""Tables of results that are called otherwise in pages: `serving` is one of families."""

RESULTS: Mapping[str, Callable[[], str]] = {
    "healing_curve": healing_curve,
    **{OWN_NAME.get(name, name): partial(results, name) for name in benchmark.names()},
}

TABLES: Mapping[str, Callable[[], str]] = {
    "families": families,
    "family_actions": family_actions,
    "family_engines": family_engines,
    "expresses": expresses,
    "serving": serving,
    "exports": exports,
    **RESULTS,
    **LANGUAGE_TABLES,
}
