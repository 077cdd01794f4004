"""Actions, the changes that a recipe can make to a layer: one file each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from lbdsl.actions.base import Action
from lbdsl.core.registry import discover

__all__ = ["Action", "actions"]


@cache
def actions() -> Mapping[str, type[Action]]:
    """All actions by name; cached."""
    return discover(sys.modules[__name__], Action, "lbdsl.actions")
