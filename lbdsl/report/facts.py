"""Terminal output of `lbdsl inspect`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbdsl.core.printed import printable
from lbdsl.core.units import bytes_text, count_text, layers_text, tokens_text
from lbdsl.cost.cost import LayerCost
from lbdsl.cost.facts import ModelFacts
from lbdsl.model.inspect import dropped_layers, weight_bytes, windowed_layers
from lbdsl.parts.base import WORDS
from lbdsl.report.console import headed_table


def render_facts(facts: ModelFacts, name: str, console: Console, *, base: tuple[str, ModelFacts] | None = None) -> None:
    """Print shapes, sizes and cache of a model; for an artifact also the difference from its base."""
    sizes = [
        {name: size for _, part in spec.sub_blocks for name, size in part.dims().items()} for spec in facts.layer_specs
    ]
    names = ("intermediate", "kv_heads", "experts", "top_k")
    widths, kv_heads, experts, chosen = ([of.get(name) for of in sizes] for name in names)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    there = f"{printable(base[0])}, cache {bytes_text(base[1].kv_bytes(facts.positions))} there" if base is not None else ""
    size = f"{count_text(facts.params)} ({facts.params:,}), {bytes_text(weight_bytes(facts))} in {facts.dtype}"
    windows = [
        f"{tokens_text(window.size)} tokens{''.join(f' and {said}' for said in window.beside)} in {layers_text(layers)}"
        for window, layers in windowed_layers(facts).items()
    ]
    others: dict[str, list[int]] = {}
    for layer, spec in enumerate(facts.layer_specs):
        if spec.mixer is not None and spec.mixer.kind != "attention":
            others.setdefault(spec.mixer.text(), []).append(layer)
    gone = [f"{WORDS[slot]} of {layers_text(layers)}" for slot, layers in dropped_layers(facts).items() if layers]
    first, whole = (bytes_text(facts.kv_bytes(tokens)) for tokens in (1, facts.positions))
    rows = {
        "base": there,
        "family": f"{facts.family} ({facts.architecture})",
        "parameters": size + (f" ({base[1].params:,} in the base)" if base is not None else ""),
        "layers": f"{facts.layers}: hidden {facts.hidden}, MLP {_by_layer(widths)}",
        "experts": f"{_by_layer(experts)}; {_by_layer(chosen)} for a token, which uses {count_text(facts.cost.matrix)}"
        if any(experts)
        else "",
        "attention": f"{facts.heads} query heads, KV heads {_by_layer(kv_heads)}, of {facts.head_dim}",
        "other mixers": "; ".join(f"{text} in {layers_text(layers)}" for text, layers in others.items()),
        "windows": "; ".join(windows),
        "dropped": "; ".join(gone),
        "vocabulary": f"{facts.vocab:,}{', head tied to the embeddings' if facts.tied else ''}",
        "positions": tokens_text(facts.positions),
        "cache": f"{first} for the first token, {whole} at {tokens_text(facts.positions)}",
    }
    for title, text in rows.items():
        if text:
            table.add_row(title, text)
    console.print(Text(printable(name), style="bold"))
    console.print(table)
    layers = [LayerCost.of(spec, facts) for spec in facts.layer_specs]
    attention = sum(LayerCost.of(spec.replace(ffn=None), facts).params for spec in facts.layer_specs)
    shares = headed_table("part", ("parameters", "share"))
    for part, count in (
        ("attentions with their norms", attention),
        ("MLPs with their norms", sum(layer.params for layer in layers) - attention),
        ("embeddings, head, final norm", facts.other_params),
    ):
        shares.add_row(part, count_text(count), f"{100 * count / facts.params:.1f} %")
    console.print(shares)


def _by_layer(sizes: list[int | None]) -> str:
    """The size as text; when layers differ, each size with the layers that have it."""
    layers = {size: [layer for layer, of in enumerate(sizes) if of == size] for size in sizes if size is not None}
    if len(layers) < 2:
        return str(next(iter(layers), 0))
    return "; ".join(f"{size} in {layers_text(having)}" for size, having in sorted(layers.items(), reverse=True))
