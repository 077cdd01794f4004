"""Download a model from the Hugging Face hub, at one commit, without pickles."""

from __future__ import annotations

import sys
from pathlib import Path

from lbdsl.core.diagnostic import fail, first_line
from lbdsl.model.checkpoint import TEMPLATE_FOLDER

WANTED = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
"""Weights, configuration, tokenizer."""

_OTHER_FOLDERS = (
    # The hub client has no way to say "but for this folder": a name that differs from its own at some letter.
    *(f"{TEMPLATE_FOLDER[:n]}[!{letter}]*/*" for n, letter in enumerate(TEMPLATE_FOLDER)),
    *(f"{TEMPLATE_FOLDER[:n]}/*" for n in range(len(TEMPLATE_FOLDER))),
    f"{TEMPLATE_FOLDER}?*/*",
    f"{TEMPLATE_FOLDER}/*/*",
)
UNWANTED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "consolidated*", *_OTHER_FOLDERS)
"""Pickles, other frameworks' copies, Mistral's own files, and sub-folders (original weights, ONNX exports) but for that of
chat templates."""


def download_snapshot(repo: str, revision: str | None, *, offline: bool = False) -> Path:
    """The folder of a snapshot of `repo`, named after its commit. Raises LbdslError with LB400, LB411-LB414."""
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    # The hub client has changed its HTTP library twice; this base class catches the transport errors of any of them.
    transport_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
    if not sys.stderr.isatty():
        disable_progress_bars()
    name = repo if revision is None else f"{repo}@{revision}"
    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, local_files_only=offline, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    except errors.HFValidationError as problem:
        raise fail("LB400", f"{name} is neither a path nor a hub id: {problem}") from problem
    except errors.GatedRepoError as problem:
        raise fail(
            "LB412",
            f"access to {repo} is restricted by its authors",
            help=(f"accept the terms at https://huggingface.co/{repo}", "then log in with `hf auth login`"),
        ) from problem
    except errors.RepositoryNotFoundError as problem:
        raise fail(
            "LB411",
            f"there is no local path {name}, and no repository {repo} on the hub that you may see",
            help=("check the spelling", "a private repository needs `hf auth login`"),
        ) from problem
    except errors.RevisionNotFoundError as problem:
        raise fail(
            "LB411", f"{repo} has no revision {revision}", help="give a branch, a tag or a full commit hash after the @"
        ) from problem
    except errors.LocalEntryNotFoundError as problem:
        if offline:
            why, again = "--offline was given", "run once with a connection, without --offline"
        elif isinstance(problem.__cause__, errors.OfflineModeIsEnabled):
            why, again = "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE to download it"
        else:
            why = f"the hub cannot be used: {first_line(problem.__cause__ or problem)}"
            again = "run once with a connection"
        message = f"there is no local path {name}, it is not complete in the hub's local cache, and {why}"
        raise fail("LB413", message, help=(again, "or give a local folder")) from problem
    except errors.HfHubHTTPError as problem:
        status = getattr(problem.response, "status_code", None)
        if status in (401, 403):
            raise fail(
                "LB412",
                f"the hub refuses access to {repo} ({status})",
                help="log in with `hf auth login`, or check your token",
            ) from problem
        raise fail(
            "LB414",
            f"the hub answered with an error for {name}: {first_line(problem)}",
            help="try again; files that are complete are kept",
        ) from problem
    except (transport_error, OSError, EOFError) as problem:
        raise fail(
            "LB414",
            f"the download of {name} was interrupted: {first_line(problem)}",
            help="run the same command again; files that are complete are kept",
        ) from problem
    return Path(folder)
