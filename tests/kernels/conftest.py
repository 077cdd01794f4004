"""Kernels run in Triton's interpreter, on the CPU; it has to be named before they are imported."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
