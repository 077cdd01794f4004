"""The version matrix: the runtime's, saving's and exports' tests under each transformers that is supported.

nox                    every version
nox -s "transformers(5.16)"
"""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

VERSIONS = ("5.16", "5.19", "5.20", "5.22", "5.23", "newest")
TESTS = (
    "tests/model/test_hybrid_masks.py",
    "tests/model/test_hybrid_cache.py",
    "tests/model/test_hybrid_robust.py",
    "tests/families/test_families.py",
    "tests/model/test_load.py",
    "tests/heal/test_heal.py",
    "tests/export/test_export_native.py",
    "tests/pipeline/test_export_native.py",
    "tests/run/test_rewrite.py",
    "tests/pipeline/test_rewriting.py",
    "tests/pipeline/test_streaming.py",
    "tests/pipeline/test_family_pipeline.py",
    "tests/pipeline/test_hybrid_save.py",
    "tests/conformance",
)


@nox.session
@nox.parametrize("version", VERSIONS)
def transformers(session: nox.Session, version: str) -> None:
    """Tests of what depends on transformers, with one version of it."""
    wanted = "transformers" if version == "newest" else f"transformers=={version}.*"
    session.install("-e", ".[dev]", wanted)
    session.run("python", "-c", "import transformers; print('transformers', transformers.__version__)")
    session.run("python", "-m", "pytest", *(session.posargs or TESTS))
