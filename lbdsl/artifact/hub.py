"""Upload files to a model repository of the Hugging Face hub, in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbdsl.core.diagnostic import fail, first_line

LOGIN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"


@dataclass(frozen=True)
class Upload:
    """A file of the repository: its name there, and its content or the file that has it."""

    name: str
    content: bytes | Path

    @property
    def bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def check_token(repository: str) -> None:
    """Raise LB412 if there is no token."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise fail("LB412", f"pushing to {repository} needs a token of the hub", help=LOGIN)


def upload(repository: str, files: Sequence[Upload], message: str, *, private: bool) -> str:
    """Make the repository if it is not there, and put the files there in one commit, whose URL is returned. Weights, code
    and records of an earlier push go. What the hub has already, also from a run that was interrupted, is not sent again.

    Raises LB411 for a name or an organisation that is none, LB412 without a token that may write, or if `private` is asked
    for and the repository is public, LB489 if the hub or the connection fails."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_token(repository)
    api = HfApi(library_name="lbdsl")
    with _coded(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        there = api.model_info(repository)
        if private and not there.private:
            help = "make it private on its page, or choose another name"
            raise fail("LB412", f"{repository} is there already, and it is public", help=help)
        content = ((each.name, each.content if isinstance(each.content, bytes) else str(each.content)) for each in files)
        added = [CommitOperationAdd(name, what) for name, what in content]
        # Weights and code of an earlier push would be loaded in place of these.
        names = {each.name for each in files}
        old = [each.rfilename for each in there.siblings or () if _loaded(each.rfilename) and each.rfilename not in names]
        operations: list[Any] = [*added, *(CommitOperationDelete(name) for name in old)]
        return str(api.create_commit(repository, operations, commit_message=message).commit_url)


def _loaded(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json", ".gguf", ".py")) or name == "lbdsl.json"


@contextmanager
def _coded(repository: str) -> Iterator[None]:
    """The hub's errors as ours."""
    from huggingface_hub import errors

    transport_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except errors.HFValidationError as problem:
        raise fail("LB411", f"{repository} is no name of a repository: {first_line(problem)}") from problem
    except errors.OfflineModeIsEnabled as problem:
        raise fail("LB489", f"{repository} was not pushed: HF_HUB_OFFLINE is set", help="unset it") from problem
    except (transport_error, OSError, ValueError, RuntimeError) as problem:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status in (401, 403):
            raise fail("LB412", f"the hub refuses to write to {repository} ({status})", help=LOGIN) from problem
        if status == 404:
            message = f"the hub has no organisation or user {repository.partition('/')[0]} that you may write to"
            raise fail("LB411", message, help="check the spelling") from problem
        help = "run the same command again: what was sent is kept there"
        raise fail("LB489", f"{repository} has no new commit: {first_line(problem)}", help=help) from problem
