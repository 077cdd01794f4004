"""The hybrid runtime: models whose layers differ.

The `lbdsl_*.py` files are flat: they need only torch and transformers, import each other relatively, and are copied
beside saved weights. `lbdsl_part_attention.py` documents the interface of a part's file. The two files of a family are
generated from its declaration (`rendered.py`) and can be imported as modules of this package.
"""

import sys
from pathlib import Path

from lbdsl.model.hybrid.rendered import FlatModules

if not any(isinstance(finder, FlatModules) for finder in sys.meta_path):
    sys.meta_path.append(FlatModules(__name__, Path(__file__).parent))
