"""Write the runtime's code beside saved weights, so that they load with transformers alone."""

from __future__ import annotations

import hashlib
import json
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
    # Parts, and their list, are those that the plan uses.
    code = {each.name: each.read_bytes() for each in home.glob("lbdsl_*.py") if not each.stem.startswith("lbdsl_part")}
    code |= {f"{module}.py": text.encode() for module, text in flat_files(FAMILIES[family]).items()}
    used: dict[str, Slot] = {}
    for spec in map(LayerSpec.model_validate, config.lbdsl["layers"]):
        parts = (spec.mixer, spec.ffn, *dict(spec.weights).values())
        used |= {part.kind: part.slot for part in parts if part is not None}
    installed = runtime_files()
    code |= {installed[kind].name: installed[kind].read_bytes() for kind in used}
    listed = _parts_text({kind: (slot, installed[kind].stem) for kind, slot in sorted(used.items())})
    code[PARTS_FILE] = listed.encode()
    # transformers gives all models of one configuration class the code of the first, and knows the class by its file.
    of = hashlib.sha256(b"".join(code[name] for name in sorted(code))).hexdigest()
    code[f"{configuration}.py"] += f"\n# Of a model whose code is {of}.\n".encode()
    for name, content in code.items():
        (folder / name).write_bytes(content)
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
