"""Tasks of lm-evaluation-harness by their names, and files of tasks: where a recipe, a plan or an artifact names one, it is
data, of which the harness would run parts as code.

Source: lm-evaluation-harness 0.4.13, `tasks/_yaml_loader.py`, `tasks/_factory.py`, `api/task.py` and `api/registry.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lbdsl.core.bounds import bounded
from lbdsl.core.diagnostic import fail, first_line
from lbdsl.core.extras import is_installed
from lbdsl.core.place import FileScope, Folder, file_at
from lbdsl.data.files import must_be_file
from lbdsl.data.sources import is_there
from lbdsl.recipe.schema_blocks import task_name

MAX_BYTES, MAX_DEPTH = 2**20, 100
TEMPLATE = "a task's template"
# fmt: off
FIELDS = frozenset((
    "aggregate_metric_list", "dataset_kwargs", "dataset_name", "dataset_path", "description", "doc_to_choice",
    "doc_to_decontamination_query", "doc_to_target", "doc_to_text", "fewshot_config", "fewshot_delimiter",
    "fewshot_split", "filter_list", "gen_prefix", "generation_kwargs", "group", "group_alias", "include", "metadata",
    "metric_list", "num_fewshot", "output_type", "repeats", "should_decontaminate", "tag", "target_delimiter", "task",
    "task_alias", "test_split", "training_split", "validation_split",
))
# fmt: on
"""The fields whose values are data. Those that take functions or classes, or load them by name, are not among them."""

FORMATS = frozenset(("json", "csv", "text", "parquet"))
"""Forms of local files that `datasets` reads without code of others."""

# fmt: off
DATA_OPTIONS = frozenset((
    "column_names", "columns", "data_dir", "data_files", "delimiter", "encoding", "field", "header", "keep_linebreaks",
    "names", "quotechar", "revision", "sample_by", "sep",
))
# fmt: on
"""The keys of `dataset_kwargs` that say which data are read and how. Others say where `datasets` writes or what runs."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_GLOB = re.compile(r"[*?\[\]{}]")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PLAIN_NAME = re.compile(r"[\w:-]+")


def check_name(name: str, folder: Folder) -> None:
    """Raise LB456 for a file that is not there; for a task that lm-evaluation-harness does not have, where it is
    installed. Neither its data are read nor its code is run."""
    path = task_file(name, folder)
    if path is None and name.endswith((".yaml", ".yml")):
        raise fail("LB456", f"there is no file {file_at(name, folder)}", help="a path is relative to the recipe")
    if path is None and is_installed("lm_eval") and name not in manager_for(None).all_tasks:
        raise _unknown(name, manager_for(None).all_tasks)


def manager_for(path: Path | None) -> Any:
    """The harness's `TaskManager`. To find the tasks that come with it takes seconds: a file does without, unless it names
    some."""
    named = path is None or re.search(r"^(group:|task:\s*(\[|$))", path.read_text(encoding="utf-8"), re.MULTILINE)
    return _manager(named is not None)


@cache
def _manager(all_tasks: bool) -> Any:
    with quiet():
        from lm_eval.tasks import TaskManager

        return TaskManager(include_defaults=all_tasks)


def _unknown(name: str, known: Sequence[str]) -> Exception:
    from lbdsl.core.nearest import nearest

    near = nearest(name, known)
    hints = ((f"did you mean `{near}`?",) if near else ()) + ("`lm-eval ls tasks` lists them; a YAML file is one, too",)
    return fail("LB456", f"lm-evaluation-harness has no task `{name}`", help=hints)


def task_file(name: str, folder: Folder) -> Path | None:
    """The YAML file that a task's name stands for, if it does. Raises LB479 as `check_tasks` does."""
    if not is_there(name, folder):
        return None
    path = file_at(name, folder).absolute()
    if not path.is_file():
        return None
    check_file(name, path, folder)
    return path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's own bars and messages."""
    from tqdm import tqdm

    made, level = tqdm.__init__, logging.root.manager.disable

    def disabled(bar: Any, *args: Any, **options: Any) -> None:
        # Whatever the harness asks for.
        made(bar, *args, **{**options, "disable": True})

    tqdm.__init__ = disabled
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        tqdm.__init__ = made


def check_file(name: str, path: Path, folder: Folder) -> None:
    """Raise LB479 for a file of a task that would run code or names files elsewhere, unless the user named or allowed it;
    LB456 for one that cannot be read."""
    if isinstance(folder, FileScope) and not _trusted(name, folder):
        _Checked(name, folder).file(path)


def may_name(path: Path, name: str, folder: Folder) -> bool:
    """Whether the file of the task `name` may name the file at `path`."""
    return not isinstance(folder, FileScope) or _trusted(name, folder) or folder.holds(path)


def _trusted(name: str, folder: FileScope) -> bool:
    return folder.task_code or name in folder.given


def keep_templates_in() -> None:
    """From now on the harness's templates run in a sandbox, whoever names the task: in Jinja's plain environment a template
    can call anything. They are also run long after a task was read. Each is compiled once, not for every answer."""
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    class Bounded(Template):
        def render(self, *args: Any, **kwargs: Any) -> str:
            return bounded(TEMPLATE, lambda: super(Bounded, self).render(*args, **kwargs))

    own = utils.env
    if not isinstance(own, SandboxedEnvironment):
        kept = SandboxedEnvironment(undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline)
        kept.filters.update(own.filters)
        kept.template_class = Bounded
        made = kept.from_string
        # To compile one is to compute what is constant in it.
        compiled = lru_cache(lambda text: bounded(TEMPLATE, lambda: made(text)))
        kept.from_string = compiled  # type: ignore[assignment, method-assign]
        utils.env = kept


class _Checked:
    """A file of a task, with those that it includes, as the harness puts them together."""

    def __init__(self, name: str, place: FileScope):
        self._name, self._place = name, place
        self._seen: set[Path] = set()

    def file(self, path: Path) -> None:
        # The harness reads data from where this file is named, and what it includes from where it lies.
        self.task(self._merged(path), path.parent)

    def _merged(self, path: Path) -> dict[Any, Any]:
        path = Path(os.path.realpath(self._place.file(str(path))))
        if path in self._seen:
            return {}
        self._seen.add(path)
        content = self._read(path)
        included = [self._merged(path.parent / str(name)) for name in _listed(content.pop("include", None))]
        return {name: value for part in (*included, content) for name, value in part.items()}

    def _read(self, path: Path) -> dict[Any, Any]:
        must_be_file(path)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise fail("LB456", f"{path} is larger than {MAX_BYTES // 2**20} MiB")
        try:
            # No tag but those of plain values: not `!function`.
            content = bounded(str(path), lambda: _plain(data, path))
        except yaml.constructor.ConstructorError as problem:
            self._refuse(str(problem.problem))
        except (yaml.YAMLError, RecursionError, ValueError) as problem:
            said = f"{type(problem).__name__}: {first_line(problem)}"
            raise fail("LB456", f"{task_name(self._name)} cannot be asked: {said}") from None
        if not isinstance(content, dict):
            raise fail("LB456", f"{path} holds no task: it is not a mapping of fields")
        for field in content:
            if field not in FIELDS:
                self._refuse(f"it has the field `{field}`")
        return content

    def task(self, content: dict[Any, Any], folder: Path) -> None:
        """A task, or a group of them."""
        for field in content:
            if field not in FIELDS:
                self._refuse(f"it has the field `{field}`")
        self._dataset(content, folder)
        metrics = [*_listed(content.get("metric_list")), *_listed(content.get("aggregate_metric_list"))]
        for metric in metrics:
            self._metric(metric)
        for member in _listed(content.get("task")) if isinstance(content.get("task"), list) else ():
            if isinstance(member, dict):
                # A member has what its group says, and what it says itself.
                self.task({**{name: content[name] for name in content if name not in ("task", "group")}, **member}, folder)
            elif not _PLAIN_NAME.fullmatch(str(member)):
                self._refuse(f"it names the task {member!r}")

    def _dataset(self, content: dict[Any, Any], folder: Path) -> None:
        path, more = content.get("dataset_path"), content.get("dataset_kwargs") or {}
        local = path is not None and path in FORMATS
        if path is not None and not local and (not _HUB_NAME.fullmatch(str(path)) or (folder / path).exists()):
            self._refuse(f"its `dataset_path` is {path!r}")
        if not isinstance(more, dict):
            self._refuse("its `dataset_kwargs` are no options")
        for option in more:
            if option not in DATA_OPTIONS:
                self._refuse(f"its `dataset_kwargs` have `{option}`")
        for value in _strings([more.get("data_dir"), more.get("data_files")]):
            self._pattern(value, folder)
        if local:
            self._data_files(more, folder)

    def _pattern(self, value: str, folder: Path) -> None:
        """Raise LB479 for data that are no local files, or whose files are looked for elsewhere."""
        if ":" in value or value.startswith("~"):
            self._refuse(f"its data are at {value}")
        fixed = _GLOB.split(value)[0]
        if fixed != value and ".." in Path(value).parts:
            self._refuse(f"its data are at {value}")
        self._place.file(str(folder / fixed))

    def _data_files(self, more: dict[str, Any], folder: Path) -> None:
        """Raise LB479 if one of the files that `datasets` will open is outside, wherever links lead."""
        from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns

        base = os.path.realpath(folder / str(more.get("data_dir") or ""))
        try:
            named = more.get("data_files")
            patterns = sanitize_patterns(named) if named is not None else get_data_patterns(base)
            found = DataFilesDict.from_patterns(patterns, base_path=base)
        except Exception as problem:
            # No files, or a value that is no pattern: nothing is read then.
            said = f"{type(problem).__name__}: {first_line(problem)}"
            raise fail("LB456", f"{task_name(self._name)} cannot be asked: {said}") from None
        for path in (path for of in found.values() for path in of):
            self._place.file(str(path))

    def _metric(self, metric: Any) -> None:
        from lm_eval.api import metrics
        from lm_eval.api.registry import metric_registry

        assert metrics is not None, "imported for what it registers"
        settings = metric if isinstance(metric, dict) else {"metric": metric}
        name = settings.get("metric")
        # Any other name is looked for as a program of that name.
        if not isinstance(name, str) or name not in metric_registry or settings.get("hf_evaluate"):
            self._refuse(f"its metric {name!r} is none of lm-evaluation-harness's own")

    def _refuse(self, why: str) -> NoReturn:
        said = f"{task_name(self._name)} may run code, and comes with a recipe, plan or artifact: {why}"
        help = ("read that file; if you trust it, add --allow-task-code", "or name it yourself: lbdsl eval --task FILE")
        raise fail("LB479", said, help=help)


def _plain(data: bytes, path: Path) -> Any:
    """What YAML says. Raises LB456 where it repeats itself by anchors, of which a few lines make any amount, or is nested
    deep."""
    depth = 0
    for event in yaml.parse(data, _LOADER):
        if getattr(event, "anchor", None) is not None:
            help = "write out what an anchor (`&`) or an alias (`*`) stands for"
            raise fail("LB456", f"{path}, line {event.start_mark.line + 1}: the YAML of a task has no anchors", help=help)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise fail("LB456", f"{path} is nested deeper than {MAX_DEPTH}")
    return yaml.load(data, _LOADER)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)
