"""The hybrid runtime: models whose layers differ.

The `lbdsl_*.py` files are flat: they need only torch and transformers, import each other relatively, and are copied
beside saved weights. What a part's file offers is said in `lbdsl_part_attention.py`. The two files of a family are written
from what it declares (`rendered.py`), and are modules of this package all the same.
"""

import sys
from pathlib import Path

from lbdsl.model.hybrid.rendered import FlatModules

if not any(isinstance(finder, FlatModules) for finder in sys.meta_path):
    sys.meta_path.append(FlatModules(__name__, Path(__file__).parent))
