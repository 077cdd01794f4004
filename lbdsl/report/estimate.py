"""What a recipe will take on other devices, as a table."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from lbdsl.api.estimating import Estimated
from lbdsl.core.units import bytes_text, duration_text, plural
from lbdsl.plan.estimate import REACHED

HELD = {
    "whole": "the whole model",
    "whole, cached": "the whole, cached teacher",
    "shared": "a share (FSDP2)",
    "shared, cached": "a share, cached teacher",
}


def render_estimate(found: Estimated, console: Console) -> None:
    devices, heal = found.devices, found.recipe.heal
    memory = f", {devices.memory / 1e9:.0f} GB each" if devices.memory else ""
    rate = f", {devices.flops / 1e12:.0f} TFLOP/s" if devices.flops else ""
    what = f"{devices.count} x {devices.kind}{memory}{rate}"
    if devices.kind == "cpu":
        what = f"{devices.count} process{'es' if devices.count > 1 else ''} on this machine's CPU"
    console.print(Text(f"lbdsl plan --estimate · {Path(found.recipe.path).name} · {what}", style="bold"))
    for stage in heal.runs if heal is not None else ():
        steps = f"{plural(stage.steps, 'step')} of {stage.batch} x {stage.seq} tokens"
        console.print(f" {stage.name}: {stage.method.node}, {steps}")
    own = None if heal is None else "whole, cached" if any(s.teacher == "cached" for s in heal.runs) else "whole"
    if found.raised:
        console.print(Text(" with a batch that so many processes can share; `apply` asks for it", style="yellow"))
    width = max(len(HELD[name]) for name in found.ways)
    machine = any(way.machine_bytes for way in found.ways.values())
    heading = f" {'each process holds':<{width}}  {'a device':>10}" + (f"  {'machine':>10}" if machine else "")
    console.print(Text(heading + f"  {'disk':>10}", style="dim"))
    for name, way in found.ways.items():
        beside = f"  {bytes_text(way.machine_bytes):>10}" if machine else ""
        line = Text(f" {HELD[name]:<{width}}  {bytes_text(way.device_bytes):>10}{beside}  {bytes_text(way.disk_bytes):>10}")
        if way.fits is not None:
            line.append("  fits" if way.fits else "  does not fit", style="green" if way.fits else "red")
        if name == own:
            line.append(" *")
        console.print(line)
    parts = [
        f"{name} {duration_text(3600 * hours)}" if hours is not None else f"{name} {found.flops[name]:.2g} FLOPs"
        for name, hours in found.hours.items()
        if found.flops[name]
    ]
    known = all(hours is not None for hours in found.hours.values())
    said = f", at {REACHED:.0%} of the devices' rate" if known else ""
    console.print(f" {', '.join(parts)}{said}")
    star = "* as in the recipe; " if own in found.ways else ""
    trained = f"{star}as if every layer were trained; " if heal is not None else ""
    console.print(Text(f" {trained}without tasks and needles", style="dim"))
