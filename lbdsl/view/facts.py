"""`lbdsl inspect` for people."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbdsl.core.facts import ModelFacts
from lbdsl.core.units import bytes_text, count_text, tokens_text
from lbdsl.view.console import printable


def render_facts(facts: ModelFacts, name: str, console: Console) -> None:
    """Shapes and sizes of a model, and what its cache grows by."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    rows = [
        ("family", f"{facts.family} ({facts.architecture})"),
        (
            "parameters",
            f"{count_text(facts.params)} ({facts.params:,}), {bytes_text(facts.params * facts.dtype_bytes)}"
            f" in {facts.dtype}",
        ),
        ("layers", f"{facts.layers}: hidden {facts.hidden}, MLP {facts.intermediate}"),
        ("attention", f"{facts.heads} query heads, {facts.kv_heads} key/value heads of {facts.head_dim}"),
        ("vocabulary", f"{facts.vocab:,}{', head tied to the embeddings' if facts.tied else ''}"),
        ("positions", tokens_text(facts.positions)),
        (
            "cache",
            f"{bytes_text(facts.kv_bytes(1))} for the first token, {bytes_text(facts.kv_bytes(facts.positions))} "
            f"at {tokens_text(facts.positions)}",
        ),
    ]
    windows = Counter(window for window in facts.native_window if window)
    if windows:
        rows.insert(
            4,
            (
                "windows",
                ", ".join(
                    f"{tokens_text(window)} in {count} of {facts.layers} layers"
                    for window, count in sorted(windows.items())
                ),
            ),
        )
    for row in rows:
        table.add_row(*row)
    console.print(Text(printable(name), style="bold"))
    console.print(table, highlight=False)
    shares = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shares.add_column("part")
    shares.add_column("parameters", justify="right")
    shares.add_column("share", justify="right")
    for part, count in (
        ("attentions with their norms", sum(facts.attention_params)),
        ("MLPs with their norms", sum(facts.mlp_params)),
        ("embeddings, head, final norm", facts.other_params),
    ):
        shares.add_row(part, count_text(count), f"{100 * count / facts.params:.1f} %")
    console.print(shares, highlight=False)
