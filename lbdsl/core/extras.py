"""Packages that are not installed with lbdsl, because only some runs need them."""

from __future__ import annotations

from importlib.util import find_spec

from lbdsl.core.diagnostic import fail


def is_installed(package: str) -> bool:
    """Whether it can be imported. A folder of that name without a package in it does not count."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def check_installed(package: str, what: str, title: str = "") -> None:
    """Raise LB485 if `package`, which `what` needs, is not installed; called before any work. `title`: its name in text."""
    if not is_installed(package):
        help = f"pip install {package.replace('_', '-')}"
        raise fail("LB485", f"{what} needs {title or package}, which is not installed", help=help)
