"""What came with a recipe, a plan, an artifact or a folder runs no code, writes nothing outside its output, and reads no
file that it may not name: a table of attacks. (Damaged and hostile models are in test_hostile.py, copies of GGUF files in
test_apply.py.)"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lbdsl.artifact.card import write_speed
from lbdsl.artifact.contents import file_hashes
from lbdsl.artifact.record import read_record, write_record
from lbdsl.core.digest import digest_of, digest_text
from lbdsl.editor.hints import configured_model
from lbdsl.plan.file import DIGEST_KEY, PREDICTED
from tests.pipeline.conftest import ask_few, ended, settle

pytestmark = pytest.mark.timeout(120)

HEAD = """lbr 1
measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }
layers 1 drop
"""
JUDGED = "eval { tokens = 128; seq = 64; limit = 2; tasks = %s }\n"
TASK = {
    "task": "own",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "own.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}
ROWS = "".join(json.dumps({"text": f"{n}:", "choices": [" one", " two"], "answer": n % 2}) + "\n" for n in range(4))


@pytest.fixture
def marker(workplace: Path) -> Path:
    """Appears when code of `evil.py`, of a template or of a program in the folder runs. The recipe's own folder is `given`,
    the working directory; beside it lies what it must not name."""
    return with_marker(workplace)


def with_marker(workplace: Path) -> Path:
    path = workplace / "ran"
    code = f"import pathlib\npathlib.Path({str(path)!r}).write_text('ran')\n"
    code += "def evil(*args, **more):\n    return args[0] if args else None\nclass Evil:\n    pass\n"
    given = workplace / "given"
    given.mkdir()
    for name in ("evil.py", "evil/evil.py"):
        (given / name).parent.mkdir(exist_ok=True)
        (given / name).write_text(code)
    (given / "own.jsonl").write_text(ROWS)
    (workplace / "outside").mkdir()
    (workplace / "outside" / "own.jsonl").write_text(ROWS)
    (workplace / "outside" / "text.txt").write_text("A text that is nobody's business. " * 400)
    (workplace / "outside" / "own.yaml").write_text(json.dumps(TASK))
    (given / "own.yaml").write_text(json.dumps(TASK))
    return path


def with_fields(**fields: object) -> str:
    return json.dumps({**TASK, **fields})


def with_function(field: str, value: str = "!function evil.evil") -> str:
    return "".join(f"{name}: {json.dumps(is_)}\n" for name, is_ in TASK.items() if name != field) + f"{field}: {value}\n"


def escape(path: str) -> str:
    return "{{ cycler.__init__.__globals__.os.system('touch PATH') }}".replace("PATH", path)


SHELL = "!!python/object/apply:os.system ['touch ../ran']"
TASK_FILES: dict[str, str] = {
    "a function for its documents": with_function("process_docs"),
    "a function for its text": with_function("doc_to_text"),
    "a function for its answers": with_function("process_results"),
    "a function for its choices": with_function("doc_to_choice"),
    "a function as its data": with_function("custom_dataset"),
    "a function as its metric": with_function("metric_list", "[{metric: !function evil.evil}]"),
    "a function as an aggregation": with_function("metric_list", "[{metric: acc, aggregation: !function evil.evil}]"),
    "a function among its examples": with_function("fewshot_config", "{samples: !function evil.evil}"),
    "a function for an image": with_function("doc_to_image"),
    "a class": with_function("class", "!function evil.Evil"),
    "Python's own tag": with_function("description", SHELL),
    "a Python name": with_function("description", "!!python/name:os.system"),
    "a program as its metric": with_fields(metric_list=[{"metric": "evil"}]),
    "a program as its metric, by a path": with_fields(metric_list=[{"metric": "./evil"}]),
    "a program as its metric, by a flag": with_fields(metric_list=[{"metric": "acc", "hf_evaluate": True}]),
    "a metric that is no name": with_fields(metric_list=[{"metric": ["acc"]}]),
    "a program as its data": with_fields(dataset_path="evil"),
    "a program as its data, by a path": with_fields(dataset_path="./evil"),
    "a program as its data, by an absolute path": with_fields(dataset_path="/tmp"),
    "data that ask to be trusted": with_fields(dataset_kwargs={"trust_remote_code": True}),
    "data above": with_fields(dataset_kwargs={"data_files": {"test": "../outside/own.jsonl"}}),
    "data anywhere": with_fields(dataset_kwargs={"data_files": "/etc/passwd"}),
    "a folder of data above": with_fields(dataset_kwargs={"data_dir": ".."}),
    "data at home": with_fields(dataset_kwargs={"data_files": ["own.jsonl", "../../x.jsonl"]}),
    "data of a server": with_fields(dataset_kwargs={"data_files": "https://example.org/own.jsonl"}),
    "a prompt by its name": with_fields(use_prompt="local:evil"),
    "code that is called unsafe": with_fields(unsafe_code=True),
    "an included file above": with_fields(include="../outside/own.yaml"),
    "an included file anywhere": with_fields(include="/etc/passwd"),
    "an included file with a function": with_fields(include="more.yaml"),
    "a group with a function": "group: g\ntask:\n- task: own\n  process_docs: !function evil.evil\n",
    "a group with a program": json.dumps({"group": "g", "task": [{"task": "x", "class": "evil"}]}),
    "a group of files": json.dumps({"group": "g", "task": ["./evil.yaml"]}),
}


@pytest.mark.parametrize("attack", TASK_FILES)
def test_a_file_of_a_task_runs_nothing(marker: Path, lbdsl, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("given")
    Path("own.yaml").write_text(TASK_FILES[attack])
    Path("more.yaml").write_text(with_function("process_docs"))
    Path("x.lbr").write_text(HEAD + JUDGED % '"own.yaml"')
    done = lbdsl("plan", "x.lbr", "../model")
    assert (done.code, "LB479" in done.err) == (6, True), done.err
    assert "--allow-" in done.err
    assert not marker.exists()
    Path("x.lbr").write_text(f'{HEAD}lowest 1 of rest by task("own.yaml", drop) drop\n')
    done = lbdsl("measure", "x.lbr", "../model")
    assert done.code in (1, 6), done.err
    assert not marker.exists()


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_choice", "doc_to_target", "description"])
def test_a_template_reaches_nothing(marker: Path, lbdsl, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("given")
    Path("own.yaml").write_text(with_fields(**{field: escape(str(marker))}))
    Path("x.lbr").write_text(HEAD + JUDGED % '"own.yaml"')
    done = lbdsl("plan", "x.lbr", "../model")
    assert not marker.exists()
    assert (done.code, "SecurityError" in done.err) == (1, True), done.err
    # Whoever trusts the file: a template is no code.
    lbdsl("plan", "x.lbr", "../model", "--allow-task-code")
    assert not marker.exists()


def linked(name: str, to: str) -> Callable[[], object]:
    return lambda: (Path(name).unlink(missing_ok=True), Path(name).symlink_to(to))


def nothing() -> None:
    pass


NAMED: dict[str, tuple[str, Callable[[], object]]] = {
    "a task above": (JUDGED % '"../outside/own.yaml"', nothing),
    "a task by a link": (JUDGED % '"linked.yaml"', linked("linked.yaml", "../outside/own.yaml")),
    "a task's data by a link": (JUDGED % '"own.yaml"', linked("own.jsonl", "../outside/own.jsonl")),
    "a text above": ('eval { data = "../outside/text.txt" }\n', nothing),
    "a text by a link": ('eval { data = "linked.txt" }\n', linked("linked.txt", "../outside/text.txt")),
    "a text by a linked folder": ('eval { data = "there/text.txt" }\n', linked("there", "../outside")),
    "a text at home": ('eval { data = "~/outside/text.txt" }\n', nothing),
    "a device": ('eval { data = "/dev/zero.txt" }\n', nothing),
    "a text in another form": ('eval { data = "wikitext:../outside/text.txt" }\n', nothing),
    "one of several texts": ('eval { data = ["builtin:wikitext", "../outside/text.txt"] }\n', nothing),
    "a text to heal on": ('heal { data = "../outside/text.txt"; tokens = 1Ki; seq = 64 }\n', nothing),
    "a text in a mix": ('heal { data = mix("builtin:pydoc", "../outside/text.txt"); tokens = 1Ki; seq = 64 }\n', nothing),
    "a text by a parameter": ('param $t: str = "../outside/text.txt"\neval { data = $t }\n', nothing),
}


@pytest.mark.parametrize("attack", NAMED)
def test_a_recipe_names_no_file_outside(marker: Path, lbdsl, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(marker.parent))
    monkeypatch.chdir("given")
    text, prepare = NAMED[attack]
    prepare()
    Path("x.lbr").write_text(HEAD + text)
    for words in (("plan", "x.lbr", "../model"), ("apply", "x.lbr", "../model", "-o", "out", "--yes")):
        done = lbdsl(*words)
        assert (done.code, "LB479" in done.err) == (6, True), done.err
        assert "--allow-path" in done.err
        assert not Path("out").exists()


def test_a_text_that_scores_may_not_be_outside_either(marker: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("given")
    Path("x.lbr").write_text('measure { data = "../outside/text.txt"; tokens = 256; seq = 64 }\nlowest 1 by nll drop\n')
    done = lbdsl("measure", "x.lbr", "../model")
    assert (done.code, "LB479" in done.err) == (6, True), done.err


def test_who_runs_it_allows_a_folder(marker: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("given")
    Path("x.lbr").write_text(HEAD + 'eval { data = "../outside/text.txt"; tokens = 128; seq = 64 }\n')
    assert lbdsl("plan", "x.lbr", "../model", "--allow-path", "../outside").code == 0
    assert lbdsl("plan", "x.lbr", "../model", "--allow-path", "../given").code == 6
    monkeypatch.setenv("LBDSL_ALLOW_PATH", "../outside")
    assert lbdsl("plan", "x.lbr", "../model").code == 0


def test_who_runs_it_allows_code(marker: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else none of the attacks above would show anything."""
    monkeypatch.chdir("given")
    Path("own.yaml").write_text(with_function("process_docs"))
    Path("x.lbr").write_text(HEAD + JUDGED % '"own.yaml"')
    assert lbdsl("plan", "x.lbr", "../model").code == 6
    assert not marker.exists()
    assert lbdsl("plan", "x.lbr", "../model", "--allow-task-code").code == 0
    assert marker.exists()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, shared_cache: Path) -> Path:
    """A folder with all of it, and a copy beside it."""
    place = tmp_path_factory.mktemp("attacked") / "place"
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        settle(place, tiny_folder, shared_cache, patch)
        ask_few(patch)
        with_marker(place)
        patch.chdir("given")
        Path("mine.txt").write_text("Some text of the recipe's own folder, over and over. " * 300)
        text = JUDGED.replace("tasks", 'data = "mine.txt"; tasks') % '"own.yaml"'
        Path("x.lbr").write_text(HEAD + text + 'assert task("own.yaml") >= 0%\n')
        assert ended("apply", "x.lbr", "../model", "-o", "out", "--yes") == 0
    shutil.copytree(place, place.with_name("kept"), symlinks=True)
    return place


class TestArtifacts:
    @pytest.fixture
    def workplace(self, attacked: Path, tiny_folder: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        shutil.rmtree(attacked)
        shutil.copytree(attacked.with_name("kept"), attacked, symlinks=True)
        return settle(attacked, tiny_folder, shared_cache, monkeypatch)

    @pytest.fixture
    def marker(self, workplace: Path) -> Path:
        return workplace / "ran"

    @pytest.fixture
    def artifact(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """One that was judged by a task and a text beside its recipe."""
        monkeypatch.chdir("given")
        return Path("out").absolute()

    def test_its_recipe_is_there(self, artifact: Path, lbdsl) -> None:
        assert lbdsl("eval", "out").code == 0

    @pytest.mark.parametrize("attack", ["a function for its documents", "a program as its metric", "data above"])
    def test_its_task_runs_nothing(self, artifact: Path, marker: Path, lbdsl, attack: str) -> None:
        Path("own.yaml").write_text(TASK_FILES[attack])
        done = lbdsl("eval", "out")
        assert (done.code, "LB479" in done.err) == (6, True), done.err
        assert not marker.exists()

    def test_a_task_that_the_user_names_may_run_code(self, artifact: Path, marker: Path, lbdsl) -> None:
        Path("own.yaml").write_text(with_function("process_docs"))
        assert lbdsl("eval", "out", "--task", "own.yaml").code == 0
        assert marker.exists()

    def test_a_text_that_the_user_names_may_be_anywhere(self, artifact: Path, lbdsl) -> None:
        for text in ("../outside/text.txt", "wikitext:../outside/text.txt"):
            done = lbdsl("eval", "out", "--data", text)
            assert done.code == 0, done.err

    def test_elsewhere_it_names_nothing_of_the_folder_where_it_was_made(
        self, artifact: Path, lbdsl, workplace: Path
    ) -> None:
        """A record says where its recipe lay; whoever wrote the record wrote that, too."""
        Path("x.lbr").rename("was.lbr")
        done = lbdsl("eval", "out")
        assert (done.code, "LB479" in done.err) == (6, True), done.err
        done = lbdsl("eval", "out", "--allow-path", ".")
        assert done.code == 0, done.err
        done = lbdsl("eval", "out", "--data", "mine.txt", "--task", "own.yaml")
        assert done.code == 0, done.err

    @pytest.mark.parametrize("name", ["empty.lbr", "known.txt"])
    def test_a_known_file_is_no_recipe(self, artifact: Path, lbdsl, workplace: Path, name: str) -> None:
        """A record that calls a file its recipe, whose content anybody knows."""
        (workplace / "outside" / name).write_text("" if name == "empty.lbr" else "layers 1 drop\n")
        content = json.loads((artifact / "lbdsl.json").read_text())
        content.pop("digest")
        recipe = content["plan"]["recipe"]
        recipe["path"] = str(workplace / "outside" / name)
        recipe["text"] = (workplace / "outside" / name).read_text()
        recipe["sha256"] = digest_text(recipe["text"])
        content["plan"]["eval"] |= {"data": ["text.txt"], "tasks": []}
        content["plan"]["asserts"], content["asserts"] = [], []
        content["digest"] = digest_of(content)
        (artifact / "lbdsl.json").write_text(json.dumps(content))
        # Its settings do not follow from that recipe.
        done = lbdsl("eval", "out")
        assert (done.code, "LB366" in done.err) == (3, True), done.err

    def test_what_bench_keeps_follows_no_link(self, artifact: Path, workplace: Path) -> None:
        victims = [workplace / "outside" / "text.txt", workplace / "outside" / "own.yaml"]
        before = [victim.read_bytes() for victim in victims]
        (artifact / "README.md").unlink(missing_ok=True)
        (artifact / "README.md").symlink_to(victims[0])
        (artifact / ".lbdsl.json.tmp").symlink_to(victims[1])
        record = read_record(artifact).unwrap()
        write_record(record, artifact)
        write_speed(record, artifact)
        assert [victim.read_bytes() for victim in victims] == before
        assert "nobody's business" not in (artifact / "README.md").read_text()

    def test_an_export_names_no_code_of_a_tokenizer(self, artifact: Path, lbdsl) -> None:
        """An engine that is trusted with the export's own code would run it, from a hub if it says so."""
        path = artifact / "tokenizer_config.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["org/evil--evil.Evil", None]}})
        )
        write_record(read_record(artifact).unwrap().model_copy(update={"files": file_hashes(artifact)}), artifact)
        done = lbdsl("export", "out", "--to", "decilm", "-o", "exported")
        assert done.code == 0, done.err
        assert "evil" not in Path("exported/tokenizer_config.json").read_text()


class TestPlans:
    @pytest.fixture
    def plan(self, marker: Path, lbdsl, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir("given")
        Path("mine.txt").write_text("Some text of the recipe's own folder, over and over. " * 300)
        Path("x.lbr").write_text(HEAD + 'eval { data = "mine.txt"; tokens = 128; seq = 64 }\n')
        done = lbdsl("plan", "x.lbr", "../model", "-o", "x.lbplan")
        assert done.code == 0, done.err
        return Path("x.lbplan").absolute()

    def test_it_may_lie_anywhere_while_its_recipe_is_there(self, plan: Path, lbdsl, workplace: Path) -> None:
        plan.rename(workplace / "outside" / "x.lbplan")
        assert lbdsl("apply", "../outside/x.lbplan", "-o", "out").code == 0

    def test_else_it_names_only_files_beside_it(self, plan: Path, lbdsl, workplace: Path) -> None:
        Path("x.lbr").unlink()
        plan.rename(workplace / "outside" / "x.lbplan")
        done = lbdsl("apply", "../outside/x.lbplan", "-o", "out")
        assert (done.code, "LB479" in done.err) == (6, True), done.err
        assert not Path("out").exists()
        assert lbdsl("apply", "../outside/x.lbplan", "-o", "out", "--allow-path", ".").code == 0

    def test_a_forged_one_names_nothing_elsewhere(self, plan: Path, lbdsl, workplace: Path) -> None:
        """Its digest is right: whoever writes a plan can compute that."""
        fields = json.loads(plan.read_text())
        fields.pop(DIGEST_KEY)
        fields["recipe"]["path"] = str(workplace / "outside" / "x.lbr")
        fields["eval"]["data"] = ["text.txt"]
        fields["recipe"]["text"] = fields["recipe"]["text"].replace("mine.txt", "text.txt")
        fields["recipe"]["sha256"] = digest_text(fields["recipe"]["text"])
        fields[DIGEST_KEY] = digest_of({name: value for name, value in fields.items() if name not in PREDICTED})
        plan.write_text(json.dumps(fields))
        done = lbdsl("apply", "x.lbplan", "-o", "out")
        assert (done.code, "LB479" in done.err) == (6, True), done.err

    def test_an_edited_one_is_none(self, plan: Path, lbdsl) -> None:
        plan.write_text(plan.read_text().replace("mine.txt", "text.txt"))
        assert "LB332" in lbdsl("apply", "x.lbplan", "-o", "out").err


SETTINGS = {
    "force": "[apply]\nforce = true\n",
    "yes": "[apply]\nyes = true\n",
    "output": '[apply]\noutput = "../outside"\n',
    "resume": "[apply]\nresume = true\n",
    "no-heal": "[apply]\nno-heal = true\n",
    "report-to": '[apply]\nreport-to = ["wandb"]\n',
    "cache-dir": 'cache-dir = "../outside"\n',
    "cache-dir of a verb": '[apply]\ncache-dir = "cache"\n',
    "allow-path": 'allow-path = ["/"]\n',
    "allow-path of a verb": '[apply]\nallow-path = ["/"]\n',
    "allow-task-code": "allow-task-code = true\n",
    "trust-remote-code": "trust-remote-code = true\n",
    "a model": '[apply]\nmodel = "../outside"\n',
    "a program of an engine": '[bench]\nengine-python = "./evil.py"\n',
    "a word for an engine": '[bench]\nengine-args = "--trust-remote-code"\n',
    "an installation": "[bench]\ninstall = true\n",
    "a task": '[eval]\ntask = ["own.yaml"]\n',
    "a plug-in": 'LBDSL_PLUGINS = "evil.py"\n',
    "an engine's folder": 'engines = "."\n',
}


@pytest.mark.parametrize("attack", SETTINGS)
def test_the_file_of_a_folder_sets_nothing_that_harms(marker: Path, lbdsl, attack: str) -> None:
    Path("given/lbdsl.toml").write_text(SETTINGS[attack])
    Path("lbdsl.toml").symlink_to("given/lbdsl.toml")
    before = sorted(path.name for path in Path().iterdir())
    done = lbdsl("apply", "tiny.lbr", "model", "-o", "given", "--yes")
    assert (done.code, "LB480" in done.err) == (1, True), done.err
    assert sorted(path.name for path in Path().iterdir()) == before
    assert not marker.exists()


@pytest.mark.parametrize(
    ("verb", "setting"),
    [
        ("eval", 'data = ["../outside/text.txt"]'),
        ("eval", 'against = "../outside"'),
        ("eval", 'output = "../outside/x.png"'),
        ("check", "fix = true"),
        ("fmt", 'output = "x"'),
        ("convert", 'output = "../outside/own.yaml"'),
        ("init", "force = true"),
        ("export", "force = true"),
    ],
)
def test_nor_for_other_verbs(marker: Path, lbdsl, verb: str, setting: str) -> None:
    Path("lbdsl.toml").write_text(f"[{verb}]\n{setting}\n")
    assert "LB480" in lbdsl(verb, "tiny.lbr").err


def test_the_users_own_file_sets_them(marker: Path, lbdsl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "home" / "lbdsl" / "lbdsl.toml"
    own.parent.mkdir(parents=True)
    own.write_text(f'allow-path = ["{tmp_path / "outside"}"]\n[plan]\noutput = "{tmp_path / "mine.lbplan"}"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir("given")
    Path("x.lbr").write_text(HEAD + 'eval { data = "../outside/text.txt"; tokens = 128; seq = 64 }\n')
    done = lbdsl("plan", "x.lbr", "../model")
    assert done.code == 0, done.err
    assert (tmp_path / "mine.lbplan").is_file()


@pytest.mark.parametrize("verb", ["bench", "calibrate", "plan"])
def test_words_for_an_engine_are_on_the_command_line_alone(
    marker: Path, lbdsl, verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "home" / "lbdsl" / "lbdsl.toml"
    own.parent.mkdir(parents=True)
    own.write_text(f'[{verb}]\nengine-args = "--trust-remote-code"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    words = (verb, "tiny.lbr", "model") if verb == "plan" else (verb, "model")
    assert "LB480" in lbdsl(*words).err
    own.unlink()
    for variable in (f"LBDSL_{verb.upper()}_ENGINE_ARGS", "LBDSL_ENGINE_ARGS"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "--trust-remote-code")
            assert "LB480" in lbdsl(*words).err


def test_an_editor_looks_at_no_model_outside_the_workspace(marker: Path, workplace: Path) -> None:
    for named, found in (("../model", None), ("/etc", None), ("~/model", None), ("m", "m")):
        (workplace / "given" / "lbdsl.toml").write_text(f'[lsp]\nmodel = "{named}"\n')
        assert configured_model(None, None, None, workplace / "given") == found


@pytest.mark.parametrize("name", ["lock", "run.json", ".run.json.tmp", "heal", "unpacked.json"])
def test_a_work_folder_with_links_is_not_taken(marker: Path, lbdsl, workplace: Path, name: str) -> None:
    victim = workplace / "outside" / "text.txt"
    before = victim.read_bytes()
    Path("out.lbdsl-work").mkdir()
    Path("out.lbdsl-work", name).symlink_to(victim)
    for more in ((), ("--resume",), ("--force",)):
        done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", *more)
        assert (done.code, "LB462" in done.err) == (1, True), done.err
        assert victim.read_bytes() == before


def test_a_work_folder_is_no_link(marker: Path, lbdsl, workplace: Path) -> None:
    Path("out.lbdsl-work").symlink_to("outside")
    before = sorted(Path("outside").iterdir())
    assert "LB462" in lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--force").err
    assert sorted(Path("outside").iterdir()) == before


def test_a_template_for_chats_reaches_nothing(marker: Path, lbdsl, workplace: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, "chatty")
    Path("chatty/chat_template.jinja").write_text(escape(str(marker)) + "{{ messages[0].content }}")
    Path("given/chats.jsonl").write_text(
        (json.dumps({"messages": [{"role": "user", "content": "Hello there, and more. " * 20}]}) + "\n") * 40
    )
    Path("given/x.lbr").write_text(HEAD + 'eval { data = "chats.jsonl"; tokens = 128; seq = 64 }\n')
    done = lbdsl("plan", "given/x.lbr", "chatty")
    assert done.code in (1, 6), done.err
    assert not marker.exists()


@pytest.mark.parametrize(
    "record",
    [
        {"text": ["/etc/passwd"]},
        {"text": {"file": "/etc/passwd"}},
        {"file": "/etc/passwd"},
        {"messages": "/etc/passwd"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///etc/passwd"}]}]},
        {"messages": [{"role": "user", "content": {"file": "/etc/passwd"}}]},
    ],
    ids=str,
)
def test_a_record_is_its_own_text(marker: Path, lbdsl, record: dict) -> None:
    """It names no file, and none is read for it."""
    Path("given/records.jsonl").write_text((json.dumps(record) + "\n") * 40)
    Path("given/x.lbr").write_text(HEAD + 'eval { data = "records.jsonl"; tokens = 128; seq = 64 }\n')
    done = lbdsl("plan", "given/x.lbr", "model")
    assert (done.code, "LB443" in done.err) == (1, True), done.err


@pytest.mark.parametrize("name", ["evil.evil", "evil", "../evil"])
def test_a_recipe_names_no_action_of_a_module(marker: Path, lbdsl, name: str) -> None:
    Path("given/x.lbr").write_text(f"layers 1 {name}\n")
    done = lbdsl("plan", "given/x.lbr", "model")
    assert done.code == 1, done.err
    assert not marker.exists()


@pytest.mark.parametrize("path", ["../outside/x.lbr", "/etc/x.lbr", "linked.lbr"])
def test_a_recipe_includes_nothing_from_outside(marker: Path, lbdsl, path: str) -> None:
    Path("outside/x.lbr").write_text("layers 1 drop\n")
    Path("given/linked.lbr").symlink_to("../outside/x.lbr")
    Path("given/x.lbr").write_text(f'include "{path}"\n')
    done = lbdsl("plan", "given/x.lbr", "model")
    assert (done.code, "LB126" in done.err) == (1, True), done.err
