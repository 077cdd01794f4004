"""What every exporter promises, of whatever format: found through the registry, so a new one is tested by being there."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lbdsl.api.applying import ApplyOptions, apply_plan
from lbdsl.api.planning import plan_recipe
from lbdsl.artifact.record import read_record
from lbdsl.core.codes import code_for
from lbdsl.core.diagnostic import LbdslError
from lbdsl.export import Subject, exporters
from lbdsl.export.files import companions
from lbdsl.layer.spec import LayerSpec
from lbdsl.session.exporting import Exported, artifact_subject, export_artifact
from lbdsl.session.options import RunOptions
from tests.export_cases import base_model, small_tokenizer
from tests.specs import layer_of

PLANS = ("layers 2 drop(block)", "layers 2 drop", "layers 1-2 swa(window=8)")
"""At least one of these small plans every format must be able to express."""

PURE = """
import pickle, sys
from lbdsl.export import exporters
kind, subject = sys.argv[1], pickle.load(open(sys.argv[2], "rb"))
before = repr(subject)
found = [exporters()[kind].check(subject) for _ in range(2)]
assert found[0] == found[1] and repr(subject) == before
assert not {"torch", "transformers", "vllm"} & set(sys.modules), "it loads torch"
"""


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[Path], Path]) -> list[Path]:
    place = tmp_path_factory.mktemp("exporters")
    base_model("llama").save_pretrained(place / "model")
    small_tokenizer().save_pretrained(place / "model")
    options = RunOptions(device="cpu", cache_dir=new_cache(place / "cache"))
    made = []
    for number, rule in enumerate(PLANS):
        recipe = place / f"plan{number}.lbr"
        recipe.write_text(f"measure {{ tokens = 256; seq = 64 }}\n{rule}\nelse keep\n")
        planned = plan_recipe(recipe, str(place / "model"), options=options)
        made.append(apply_plan(planned, chosen=ApplyOptions(output=place / f"artifact{number}")).folder)
    return made


def subject(folder: Path) -> Subject:
    return artifact_subject(folder, read_record(folder).unwrap())


def expressible(kind: str, artifacts: list[Path]) -> Path:
    """The first artifact that the format can express."""
    for folder in artifacts:
        if not any(d.is_error for d in exporters()[kind].check(subject(folder))):
            return folder
    pytest.fail(f"{kind} can express none of {PLANS}")


@pytest.fixture(scope="module")
def exported(artifacts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    place = tmp_path_factory.mktemp("exported")
    return {kind: export_artifact(expressible(kind, artifacts), kind, output=place / kind) for kind in exporters()}


@pytest.mark.parametrize("kind", exporters())
def test_its_page_is_written(kind: str) -> None:
    exporter = exporters()[kind]
    page = exporter.__doc__ or ""
    assert all(f"{heading}:" in page for heading in ("What", "Engine", "Limits", "Source"))
    assert exporter.kind == kind
    assert exporter.engine


@pytest.mark.parametrize("kind", exporters())
def test_check_is_pure_and_free_of_torch(kind: str, artifacts: list[Path], tmp_path: Path) -> None:
    value = subject(artifacts[1])
    (tmp_path / "subject").write_bytes(pickle.dumps(value))
    done = subprocess.run([sys.executable, "-c", PURE, kind, str(tmp_path / "subject")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", exporters())
def test_it_refuses_sink_tokens(kind: str, artifacts: list[Path]) -> None:
    """No engine of today keeps them; one that does may be taken out here."""
    value = subject(artifacts[2])
    sinks = tuple(LayerSpec.model_validate(layer_of(own.to_json(), 8, sinks=4)) for own in value.facts.layer_specs[1:3])
    specs = (value.specs[0], *sinks, *value.specs[3:])
    errors = [d for d in exporters()[kind].check(dataclasses.replace(value, specs=specs)) if d.is_error]
    assert any("sink" in d.message and "layers 1-2" in d.message for d in errors)
    for finding in errors:
        assert finding.help, finding
        assert finding.exit_code == 6
        assert code_for(finding.code).reason


@pytest.mark.parametrize("kind", exporters())
def test_it_writes_what_belongs_to_the_model(kind: str, exported: dict[str, Exported], artifacts: list[Path]) -> None:
    done = exported[kind]
    names = {file.name for file in done.files}
    assert names == {str(path.relative_to(done.folder)) for path in done.folder.rglob("*") if path.is_file()}
    assert "README.md" in names
    assert (done.folder / "README.md").read_text().startswith("---\nbase_model: ")
    if not any(name.endswith(".gguf") for name in names):  # which has them inside
        assert names >= set(companions(expressible(kind, artifacts)))
    assert str(done.folder) in done.how_to_load
    assert kind != "gguf" or f"llama-server -fa on -m {done.folder}/model.gguf" in done.how_to_load
    assert done.bytes > 10_000
    assert not [path for path in done.folder.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", exporters())
def test_it_says_how_far_it_is_and_ends_at_the_whole(kind: str, artifacts: list[Path], tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []
    (tmp_path / "out").mkdir()
    folder = expressible(kind, artifacts)
    exporters()[kind].write(
        folder, subject(folder), tmp_path / "out", lambda done, total, note="": told.append((done, total))
    )
    assert told
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("kind", exporters())
def test_a_write_that_fails_leaves_nothing(
    kind: str, artifacts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(exporters()[kind]):  # type: ignore[misc]
        @classmethod
        def write(cls, artifact, subject, output, progress=None):
            super().write(artifact, subject, output, progress)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("lbdsl.session.exporting.exporters", lambda: {kind: Failing})
    with pytest.raises(LbdslError) as refused:
        export_artifact(expressible(kind, artifacts), kind, output=tmp_path / "out")
    assert [d.code for d in refused.value.diagnostics] == ["LB463"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_appears_meanwhile_is_not_moved(
    artifacts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, target = next(iter(exporters())), tmp_path / "out"

    class Meanwhile(exporters()[kind]):  # type: ignore[misc]
        @classmethod
        def write(cls, artifact, subject, output, progress=None):
            super().write(artifact, subject, output, progress)
            target.mkdir()
            (target / "mine").touch()

    monkeypatch.setattr("lbdsl.session.exporting.exporters", lambda: {kind: Meanwhile})
    with pytest.raises(LbdslError, match="LB460"):
        export_artifact(expressible(kind, artifacts), kind, output=target)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize("kind", exporters())
def test_the_artifact_stays_as_it_was(kind: str, artifacts: list[Path], exported: dict[str, Exported]) -> None:
    from lbdsl.artifact.contents import check_files

    folder = expressible(kind, artifacts)
    check_files(folder, read_record(folder).unwrap())
