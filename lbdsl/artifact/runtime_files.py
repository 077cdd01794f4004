"""Write the runtime's code beside saved weights, so that they load with transformers alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbdsl.families import FAMILIES
from lbdsl.layer.spec import LayerSpec
from lbdsl.model import hybrid
from lbdsl.model.hybrid.lbdsl_parts import runtime_files
from lbdsl.model.hybrid.rendered import configuration_module, flat_files, modeling_module
from lbdsl.model.runtime import hybrid_classes
from lbdsl.parts import Slot

PARTS_FILE = "lbdsl_parts.py"


def write_runtime(folder: Path | str, config: Any) -> None:
    """Write the code files that a model of `config` needs into `folder`, and reference them in its config.json."""
    folder, family = Path(folder), config.lbdsl["base_model_type"]
    classes, configuration, modeling = hybrid_classes(family), configuration_module(family), modeling_module(family)
    home = Path(next(iter(hybrid.__path__)))
    for path in home.glob("lbdsl_*.py"):
        # Parts, and their list, are those that the plan uses.
        if not path.stem.startswith("lbdsl_part"):
            shutil.copyfile(path, folder / path.name)
    for module, text in flat_files(FAMILIES[family]).items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    used: dict[str, Slot] = {}
    for spec in map(LayerSpec.model_validate, config.lbdsl["layers"]):
        parts = (spec.mixer, spec.ffn, *dict(spec.weights).values())
        used |= {part.kind: part.slot for part in parts if part is not None}
    installed = runtime_files()
    for kind in used:
        shutil.copyfile(installed[kind], folder / installed[kind].name)
    (folder / PARTS_FILE).write_text(
        _parts_text({kind: (slot, installed[kind].stem) for kind, slot in sorted(used.items())}), encoding="utf-8"
    )
    # transformers gives all models of one configuration class the code of the first, and knows the class by its file.
    code = hashlib.sha256(b"".join(each.read_bytes() for each in sorted(folder.glob("*.py")))).hexdigest()
    with (folder / f"{configuration}.py").open("a", encoding="utf-8") as file:
        file.write(f"\n# Of a model whose code is {code}.\n")
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = {
        "AutoConfig": f"{configuration}.{classes.config.__name__}",
        "AutoModel": f"{modeling}.{classes.body.__name__}",
        "AutoModelForCausalLM": f"{modeling}.{classes.causal_lm.__name__}",
    }
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _parts_text(used: Mapping[str, tuple[Slot, str]]) -> str:
    """The artifact's `lbdsl_parts.py`, with static imports: transformers finds the files to load by parsing imports."""
    imports = "".join(f"from .{stem} import PART as PART_{place}\n" for place, (_, stem) in enumerate(used.values()))
    kinds = "".join(f'    "{kind}": PART_{place},\n' for place, kind in enumerate(used))
    known = "".join(
        f'    "{slot}": {{'
        + ", ".join(f'"{kind}": PARTS["{kind}"].FIELDS' for kind, (at, _) in used.items() if at is slot)
        + "},\n"
        for slot in Slot
    )
    return f'''"""The parts of this model, by their kind in a layer's specification."""

from .lbdsl_layers import check_layer
{imports}
PARTS = {{
{kinds}}}
KNOWN = {{
{known}}}


def part(kind):
    return PARTS[kind]


def checked_spec(spec, layer_idx):
    check_layer(spec, f"layer {{layer_idx}}", KNOWN)
    return spec
'''
