"""Keep transformers' messages and progress bars off the terminal; lbdsl prints what a user should know."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """Context in which transformers logs errors only; the previous settings are restored afterwards.

    `bars` also discards standard error, for code that draws progress bars regardless of the settings (reading GGUF).
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bar_was_on = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            if bars:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar_was_on:
            logging.enable_progress_bar()
