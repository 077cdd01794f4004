"""Terminal output of `lbdsl inspect`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbdsl.core.units import bytes_text, count_text, layers_text, tokens_text
from lbdsl.cost.cost import LayerCost
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.inspect import dropped_layers, weight_bytes, windowed_layers
from lbdsl.parts.base import WORDS
from lbdsl.report.console import printable


def render_facts(facts: ModelFacts, name: str, console: Console, *, base: tuple[str, ModelFacts] | None = None) -> None:
    """Print shapes, sizes and cache of a model; for an artifact also the difference from its base."""
    was = base[1] if base is not None else None
    sizes = [
        {name: size for _, part in spec.sub_blocks for name, size in part.dims().items()} for spec in facts.layer_specs
    ]
    widths, kv_heads = ([of.get(name) for of in sizes] for name in ("intermediate", "kv_heads"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    rows = [
        ("family", f"{facts.family} ({facts.architecture})"),
        (
            "parameters",
            f"{count_text(facts.params)} ({facts.params:,}), {bytes_text(weight_bytes(facts))}"
            f" in {facts.dtype}" + (f" ({was.params:,} in the base)" if was else ""),
        ),
        ("layers", f"{facts.layers}: hidden {facts.hidden}, MLP {_by_layer(widths)}"),
        ("attention", f"{facts.heads} query heads, KV heads {_by_layer(kv_heads)}, of {facts.head_dim}"),
        ("vocabulary", f"{facts.vocab:,}{', head tied to the embeddings' if facts.tied else ''}"),
        ("positions", tokens_text(facts.positions)),
        (
            "cache",
            f"{bytes_text(facts.kv_bytes(1))} for the first token, {bytes_text(facts.kv_bytes(facts.positions))} "
            f"at {tokens_text(facts.positions)}",
        ),
    ]
    rows[4:4] = _changed_rows(facts)
    if base is not None:
        rows.insert(0, ("base", f"{printable(base[0])}, cache {bytes_text(base[1].kv_bytes(facts.positions))} there"))
    for row in rows:
        table.add_row(row[0], Text(row[1]))
    console.print(Text(printable(name), style="bold"))
    console.print(table, highlight=False)
    layers = [LayerCost.of(spec, facts) for spec in facts.layer_specs]
    attention = sum(LayerCost.of(spec.replace(ffn=None), facts).params for spec in facts.layer_specs)
    shares = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shares.add_column("part")
    shares.add_column("parameters", justify="right")
    shares.add_column("share", justify="right")
    for part, count in (
        ("attentions with their norms", attention),
        ("MLPs with their norms", sum(layer.params for layer in layers) - attention),
        ("embeddings, head, final norm", facts.other_params),
    ):
        shares.add_row(part, count_text(count), f"{100 * count / facts.params:.1f} %")
    console.print(shares, highlight=False)


def _changed_rows(facts: ModelFacts) -> list[tuple[str, str]]:
    """Rows for sliding windows and dropped parts."""
    rows = []
    windows = [
        f"{tokens_text(window.size)} tokens{f' and {window.sinks}' if window.sinks else ''} in {layers_text(layers)}"
        for window, layers in windowed_layers(facts).items()
    ]
    if windows:
        rows.append(("windows", "; ".join(windows)))
    gone = [f"{WORDS[slot]} of {layers_text(layers)}" for slot, layers in dropped_layers(facts).items() if layers]
    if gone:
        rows.append(("dropped", "; ".join(gone)))
    return rows


def _by_layer(sizes: list[int | None]) -> str:
    """The size as text; when layers differ, each size with the layers that have it."""
    layers: dict[int, list[int]] = {}
    for index, size in enumerate(sizes):
        if size is not None:
            layers.setdefault(size, []).append(index)
    if len(layers) < 2:
        return str(next(iter(layers), 0))
    return "; ".join(f"{size} in {layers_text(having)}" for size, having in sorted(layers.items(), reverse=True))
