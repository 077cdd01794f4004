"""The runtime's code beside saved weights, so that transformers alone can load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lbdsl.model import hybrid
from lbdsl.model.hybrid.lbdsl_mixers import runtime_files

SHARED = ("lbdsl_layers.py", "lbdsl_cache.py", "lbdsl_masks.py", "lbdsl_hybrid.py", "lbdsl_mixer_full.py")
"""Files that every artifact needs, whatever its family and plan."""

MIXERS_FILE = "lbdsl_mixers.py"


def auto_map_for(config: Any) -> dict[str, str]:
    """Where `AutoConfig` and the rest find their classes in the artifact's own files."""
    family = config.lbdsl["base_model_type"]
    names = {"AutoConfig": f"configuration_lbdsl_{family}.{type(config).__name__}"}
    stem = type(config).__name__.removesuffix("Config")
    for auto, suffix in (("AutoModel", "Model"), ("AutoModelForCausalLM", "ForCausalLM")):
        names[auto] = f"modeling_lbdsl_{family}.{stem}{suffix}"
    return names


def write_runtime(folder: Path | str, config: Any) -> None:
    """Copy the files that a model of `config` needs into `folder`, and name them in its config.json."""
    folder = Path(folder)
    home = Path(next(iter(hybrid.__path__)))
    family = config.lbdsl["base_model_type"]
    for name in (*SHARED, f"configuration_lbdsl_{family}.py", f"modeling_lbdsl_{family}.py"):
        shutil.copyfile(home / name, folder / name)
    used = sorted({spec["attn"] for spec in config.lbdsl["layers"]} - {"full", "none"})
    installed = runtime_files()
    for name in used:
        shutil.copyfile(installed[name], folder / installed[name].name)
    (folder / MIXERS_FILE).write_text(_mixers_text({name: installed[name].stem for name in used}), encoding="utf-8")
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = auto_map_for(config)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _mixers_text(stems: dict[str, str]) -> str:
    """The artifact's `lbdsl_mixers.py`: static imports, because transformers finds files to load by reading them."""
    lines = [
        '"""The mixers of this model, by the name that a layer\'s specification gives as `attn`."""',
        "",
        "from .lbdsl_mixer_full import MIXER as FULL",
    ]
    lines += [f"from .{stem} import MIXER as MIXER_{number}" for number, stem in enumerate(stems.values())]
    lines += ["", 'MIXERS = {"full": FULL']
    lines[-1] += "".join(f', "{name}": MIXER_{number}' for number, name in enumerate(stems)) + "}"
    lines += [
        "",
        "",
        "def mixer(name):",
        "    if name not in MIXERS:",
        '        raise ValueError(f"this model has no mixer called {name!r}; it has: {sorted(MIXERS)}")',
        "    return MIXERS[name]",
        "",
    ]
    return "\n".join(lines)
