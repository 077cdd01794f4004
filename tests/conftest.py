"""Tiny models gain nothing from threads and lose much: one each, for this process and those it starts."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
