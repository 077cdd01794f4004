"""`OpenModel`: a source model whose parts (weights, tokenizer, digest) are loaded lazily and at most once."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lbdsl.core.cache import hold
from lbdsl.core.diagnostic import Diagnostic, fail, warning
from lbdsl.core.place import FileScope
from lbdsl.core.processes import process_count, processes_on_machine, shares_model
from lbdsl.core.progress import AnyProgress, progress_of
from lbdsl.core.units import bytes_text
from lbdsl.cost.devices import devices_of
from lbdsl.cost.facts import ModelFacts
from lbdsl.cost.profile import Profile
from lbdsl.measure.fingerprint import fingerprint, versions_of
from lbdsl.model.digest import default_cache_dir, model_digest
from lbdsl.model.inspect import inspect_model
from lbdsl.model.source import ModelSource, is_artifact, resolve_source
from lbdsl.plan.memory import Held, model_bytes
from lbdsl.session.options import RunOptions

if TYPE_CHECKING:
    from lbdsl.artifact.record import Record
    from lbdsl.data.blocks import TokenBlocks
    from lbdsl.measure.layer_source import LayerSource
    from lbdsl.measure.runs import Measuring
    from lbdsl.measure.taken import StatisticsOf


class OpenModel:
    """A source model for the duration of a command. Reading a property may load, hash or download. `came_from`: the folder
    of a saved plan or an artifact whose recipe is not where it says: that recipe may name files of this folder alone.
    Without `weights` a folder with config.json is enough, for what reads nothing else."""

    def __init__(
        self,
        model: str | Path,
        options: RunOptions | None = None,
        progress: AnyProgress | None = None,
        came_from: Path | None = None,
        *,
        weights: bool = True,
    ):
        self.came_from = came_from
        if not isinstance(options, RunOptions | None):
            raise TypeError(f"options is lbdsl.RunOptions(device=...), not {options!r}")
        self.options = options or RunOptions()
        self.progress = progress_of(progress)
        self.source: ModelSource = resolve_source(str(model), offline=self.options.offline)
        inspected = inspect_model(self.source, self.options.dtype, weights=weights)
        self.facts: ModelFacts = inspected.unwrap()
        self.diagnostics: tuple[Diagnostic, ...] = inspected.diagnostics
        self._files_checked = False
        self.confirmed: dict[str, tuple[float, float, float]] = {}
        """What was measured of whole plans in vLLM, as profiles have it."""

    @cached_property
    def cache_dir(self) -> Path:
        return self.used(self.options.cache_dir or default_cache_dir())

    def used(self, root: Path) -> Path:
        """`root`, which `lbdsl cache` prunes nothing from as long as this lives."""
        lock = hold(root)
        if lock is not None:
            weakref.finalize(self, lock.close)
        return root

    def place(self, recipe_path: str) -> FileScope:
        """Which files the names in the recipe at `recipe_path` may mean."""
        folder = Path(recipe_path).absolute().parent
        own = (self.came_from or folder, *self.options.allow_paths)
        return FileScope(folder, own, task_code=self.options.allow_task_code)

    @cached_property
    def digest(self) -> str:
        """sha256 over the model's files."""
        with self.progress.stage("hashing the model") as report:
            return model_digest(self.source, self.cache_dir, progress=report)

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions that what is measured on this model depends on."""
        return versions_of(gguf=self.source.gguf_file is not None)

    def fingerprint(self, blocks_digest: str) -> str:
        """The cache key for what is measured of this model on a text."""
        return fingerprint(
            model=self.digest,
            blocks=blocks_digest,
            saved=self.facts.dtype,
            dtype=self.computed.dtype,
            device=self.device,
            versions=self.versions,
        )

    @cached_property
    def device(self) -> Any:
        from lbdsl.model.load import pick_device

        return pick_device(self.options.device)

    @cached_property
    def computed(self) -> ModelFacts:
        """The facts with the dtype that this device computes in; `facts` has the dtype that weights are saved in."""
        from lbdsl.model.computing import compute_dtype

        return replace(self.facts, dtype=compute_dtype(self.facts.dtype, self.device))

    @cached_property
    def tokenizer(self) -> Any:
        from lbdsl.model.load import load_tokenizer

        return load_tokenizer(self.source, trust_remote_code=self.options.trust_remote_code, cache_dir=self.cache_dir)

    @cached_property
    def base(self) -> Any:
        """The base model in the hybrid runtime, with every layer unchanged, in eval mode."""
        from lbdsl.model.computing import cast_weights
        from lbdsl.model.surgery import to_hybrid

        self._check_files()
        self._say_computing()
        with self.progress.stage("loading the model"):
            if is_artifact(self.source):
                import torch

                from lbdsl.artifact.restore import load_artifact

                dtype = getattr(torch, self.facts.dtype)
                return load_artifact(self.source.path, device=self.device, dtype=dtype, compute=self.computed.dtype)
            return cast_weights(to_hybrid(self.load_stock()), self.computed.dtype)

    def load_stock(self) -> Any:
        """The model as transformers has it, in the dtype of `facts`."""
        from lbdsl.model.load import load_base

        return load_base(self.source, dtype=self.facts.dtype, device=self.device, cache_dir=self.cache_dir)

    def _say_computing(self) -> None:
        from lbdsl.model.computing import computing_text

        said = computing_text(self.facts.dtype, self.computed.dtype, self.device)
        if said:
            self.progress.say(said)

    def _check_files(self) -> None:
        """Raise LB465 when the source is an lbdsl artifact that was edited since it was saved. Checked only once."""
        if is_artifact(self.source) and not self._files_checked:
            from lbdsl.artifact.contents import check_files
            from lbdsl.artifact.record import read_record

            with self.progress.stage("checking the artifact"):
                check_files(self.source.path, read_record(self.source.path).unwrap())
            self._files_checked = True

    @cached_property
    def weights_folder(self) -> Path:
        """The folder with the base's weights as safetensors; for a GGUF file, that of its dequantized copy."""
        self._check_files()
        if self.source.gguf_file is None:
            return self.source.path
        from lbdsl.model.gguf_copy import gguf_model_folder

        with self.progress.stage("dequantizing the model"):
            return gguf_model_folder(self.source, self.facts, self.cache_dir)

    @cached_property
    def measured_base(self) -> LayerSource:
        """The base model for measuring; its weights stay on disk with `low_memory` or when they do not fit."""
        return self._source(self.streamed)

    @contextmanager
    def measuring(self, blocks: TokenBlocks, title: str, statistics: StatisticsOf) -> Iterator[Measuring]:
        """What measures on a text, as a stage of progress."""
        from lbdsl.measure.runs import Measuring
        from lbdsl.measure.store import open_store

        key, batch = self.fingerprint(blocks.digest), self.options.batch
        with open_store(self.cache_dir) as store, self.progress.stage(title) as report:
            yield Measuring(lambda: self.measured_base, blocks, store, key, report, batch, statistics)

    @cached_property
    def judged_base(self) -> LayerSource:
        """The base model that an artifact is evaluated against: as `measured_base`, but both models must fit."""
        return self._source(self.judged_streamed)

    @cached_property
    def streamed(self) -> bool:
        """Whether the base is measured with its weights on disk."""
        return self._too_large(1)

    @cached_property
    def judged_streamed(self) -> bool:
        """Whether the base and an artifact are judged with their weights on disk."""
        return self._too_large(2)

    def _source(self, streamed: bool) -> LayerSource:
        from lbdsl.measure.layer_source import LoadedModel

        return self._from_disk if streamed else LoadedModel(self.base)

    @cached_property
    def _from_disk(self) -> LayerSource:
        from lbdsl.measure.streamed_model import StreamedModel

        self._say_computing()
        return StreamedModel(self.weights_folder, self.facts, self.device, self.computed.dtype)

    def _too_large(self, models: int) -> bool:
        """True when `models` models of this size, including a loaded base, do not fit in memory."""
        from lbdsl.measure.memory import fits

        if self.options.low_memory:
            return True
        if fits(self.computed, self.device, models - ("base" in self.__dict__)):
            return False
        self.progress.say(
            "the model is too large for the memory that is free: its weights stay on disk, one layer at a time is loaded"
        )
        return True

    def check_room_to_heal(self) -> None:
        """Raise LB482 when the model and the copy that is trained do not both fit in free memory."""
        from lbdsl.measure.memory import free_bytes

        held = Held(process_count(), shares_model())
        models = 2 - ("base" in self.__dict__)
        places = {self.device.type: models * model_bytes(self.computed, held)}
        if held.shared:
            # Each process reads both, and keeps its share.
            places["cpu"] = 2 * processes_on_machine() * model_bytes(self.computed)
        for place, needed in places.items():
            free = free_bytes(self.device if place == self.device.type else place)
            if needed > free:
                where = "" if len(places) == 1 else f" on {'the device' if place != 'cpu' else 'the machine'}"
                raise fail(
                    "LB482",
                    f"healing loads the model and a copy, {bytes_text(needed)}, and {bytes_text(free)} are free{where}",
                    help=(
                        "apply the plan with --no-heal: that needs no memory for the model",
                        "or heal on a machine with more memory",
                    ),
                )

    def profiles(
        self,
        engines: Iterable[str],
        machine: Mapping[str, Any] | None = None,
        of: Mapping[str, Profile] = MappingProxyType({}),
    ) -> dict[str, Profile]:
        """The profiles of these engines for this model, where there are any: on this machine, or, where the engine runs on
        GPUs or with arguments of its own, on `machine` ({} for none). If that is open, the last of those counts where this
        machine has none, or the last on what `RunOptions.serving` names; with `of`, that of the same machine as there."""
        from lbdsl.measure.profiles import own_profiles, profile_path, read_profile

        asked = None if self.options.serving is None else devices_of(self.options.serving)

        def wanted(name: str, profile: Profile) -> bool:
            machine = profile.machine
            if name in of:
                return {**machine, "torch": ""} == {**of[name].machine, "torch": ""}
            return name != "vllm" or asked is None or asked.is_called(machine["name"], machine["device"])

        found: dict[str, Profile | None] = {}
        for name in engines:
            here = read_profile(profile_path(name, self.computed, self.device, self.cache_dir, machine))
            others = own_profiles(name, self.computed, self.cache_dir) if machine is None else []
            known = [*([here] if here is not None else []), *others]
            found[name] = next((profile for profile in known if wanted(name, profile)), None)
        # Other engines are asked for their version when they run.
        own = {"transformers": version("transformers")}
        return {
            name: replace(profile, confirmed=dict(self.confirmed)) if name == "vllm" else profile
            for name, profile in found.items()
            if profile is not None and profile.version == own.get(name, profile.version)
        }

    def release(self) -> None:
        """Forget the base model that is in memory; it is loaded again when it is needed."""
        for name in ("base", "measured_base", "judged_base"):
            self.__dict__.pop(name, None)
        # Modules refer to each other in circles: without this their memory stays in use.
        gc.collect()
        if self.device.type == "cuda":
            import torch

            # Other processes cannot have what torch keeps.
            torch.cuda.empty_cache()

    def in_machine_memory(self) -> OpenModel:
        """The same model, loaded into the machine's memory, in the dtype that the device computes in."""
        import torch

        if self.device.type == "cpu":
            return self
        other = copy.copy(self)
        other.release()
        other.__dict__.update(computed=self.computed, device=torch.device("cpu"))
        return other

    def fresh_copy(self) -> Any:
        """A copy of the base model that may be changed; the base is not modified."""
        return copy.deepcopy(self.base)


def opened(
    folder: Path, against: str | Path | None, options: RunOptions | None, progress: AnyProgress | None
) -> tuple[Record, OpenModel, list[Diagnostic]]:
    """The record of the artifact in `folder`, its base or the model `against`, and warnings if that is another model, or if
    the card is not as it was written.
    Raises LB465 and LB466, and LB473 if another model is not named, or has another vocabulary."""
    from lbdsl.artifact.contents import check_files
    from lbdsl.artifact.record import facts_of, read_record
    from lbdsl.session.claims import check_record

    record = read_record(folder).unwrap()
    shown = check_files(folder, record)
    bench = base_of(record, against, options, progress)
    same = bench.digest == record.plan.model.digest
    # Another dtype can be asked for here.
    check_record(record, folder, replace(bench.facts, dtype=record.plan.model.dtype) if same else None)
    if same:
        return record, bench, [*shown]
    message = f"{bench.source.text} is not the model that the artifact was made from"
    if against is None or bench.facts.vocab != facts_of(record).vocab:
        which = "the base model" if against is None else "a model with the same vocabulary"
        raise fail("LB473", message, help=f"name {which} with --against")
    another = warning("LB473", message, help="its numbers are compared with those of another base")
    return record, bench, [*shown, another]


def base_of(
    record: Record, against: str | Path | None, options: RunOptions | None, progress: AnyProgress | None
) -> OpenModel:
    """The base of an artifact, or the model `against`, in the base's dtype; which of them it is, is not checked."""
    given, model = options or RunOptions(), record.plan.model
    return OpenModel(against or model.source, replace(given, dtype=given.dtype or model.dtype), progress)
