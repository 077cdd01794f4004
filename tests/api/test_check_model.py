"""`check --model`: what a model's headers say of a recipe, and that nothing else of the model is read."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lbdsl.api.checking import check_file, check_recipe
from lbdsl.cli.check import check
from lbdsl.core.measurement import Measurement
from lbdsl.plan.findings import impossible_untils
from lbdsl.recipe.load import recipe_from_text
from lbdsl.solve.case import Case
from lbdsl.solve.select import select
from tests.plan_cases import llama_facts, smollm2_facts, windowed, write_without_data

ROOT = Path(__file__).parents[2]
GATED = "\nheal {}\nassert ppl_increase < 5%\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 30 layers and 8 hidden units: headers, and zeros for weights."""
    folder = tmp_path_factory.mktemp("model")
    layers, hidden, inner, vocab = 30, 8, 16, 32
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "num_hidden_layers": layers,
                "hidden_size": hidden,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "intermediate_size": inner,
                "vocab_size": vocab,
                "max_position_embeddings": 2048,
                "tie_word_embeddings": True,
                "torch_dtype": "bfloat16",
                "rms_norm_eps": 1e-5,
            }
        )
    )
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    for layer in range(layers):
        head = f"model.layers.{layer}."
        shapes |= {
            head + "input_layernorm.weight": [hidden],
            head + "post_attention_layernorm.weight": [hidden],
            head + "self_attn.q_proj.weight": [8, hidden],
            head + "self_attn.k_proj.weight": [4, hidden],
            head + "self_attn.v_proj.weight": [4, hidden],
            head + "self_attn.o_proj.weight": [hidden, 8],
            head + "mlp.gate_proj.weight": [inner, hidden],
            head + "mlp.up_proj.weight": [inner, hidden],
            head + "mlp.down_proj.weight": [hidden, inner],
        }
    write_without_data(folder / "model.safetensors", shapes)
    return folder


def run(model: Path, text: str, *arguments: str) -> Result:
    return CliRunner().invoke(check, ["--model", str(model), "--format", "concise", *arguments, "-"], input=text)


def test_ranges_are_held_against_the_model(model: Path) -> None:
    done = run(model, "layers 20-40 drop")
    assert done.exit_code == 1
    assert "<stdin>:1:8: error[LB300] layers 30-40 do not exist" in done.stdout
    # Cut short it would be another set of layers than the one that was written.
    fixed = run(model, "layers 20-40 drop" + GATED, "--fix")
    assert fixed.stdout.startswith("layers 20-40 drop\n")


def test_an_open_range_gets_its_end(model: Path) -> None:
    done = CliRunner().invoke(check, ["--model", str(model), "-"], input="layers 4- keep")
    assert "write `4-29` (the model has 30 layers) or `last 26`" in done.stdout


def test_a_static_assert_ends_with_its_own_code(model: Path) -> None:
    done = run(model, "layers 0-3 drop\nelse keep\nheal {}\nassert kv(1Ki) <= 50%")
    assert done.exit_code == 5
    assert "error[LB321] `assert kv(1Ki) <= 50%` fails: `kv(1Ki)` is " in done.stdout
    assert run(model, "layers 0-3 drop\nelse keep\nheal {}\nassert kv(1Ki) <= 90%").exit_code == 0


def test_a_rule_is_not_silenced_by_one_of_an_included_file(tmp_path: Path) -> None:
    (tmp_path / "a.lbr").write_text("layers 0-9 keep\nlayers 2-4 drop\n", encoding="utf-8")
    (tmp_path / "r.lbr").write_text('include "a.lbr"\nlayers first 3 drop\nelse keep\n', encoding="utf-8")
    found = check_file(tmp_path / "r.lbr", facts=smollm2_facts()).diagnostics
    places = [
        (d.code, Path(d.span.source.name).name, d.span.start) for d in found if d.code in ("LB202", "LB307") and d.span
    ]
    assert places == [("LB307", "r.lbr", 16), ("LB202", "a.lbr", 16)]


def test_requires(model: Path) -> None:
    assert "LB320" in run(model, 'requires model.family == "qwen3"\nelse keep').stdout
    assert run(model, 'requires model.family == "llama" and model.layers == 30\nelse keep').exit_code == 0


@pytest.mark.large
def test_a_model_that_cannot_be_read_is_reported_as_by_inspect(tmp_path: Path) -> None:
    (tmp_path / "a.lbr").write_text("else keep", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "lbdsl", "check", "--model", str(tmp_path), str(tmp_path / "a.lbr")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "error[LB401]" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "lbdsl", "check", "--model", "nowhere", "--format", "json", "x.lbr"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert [(item["code"], item["file"], item["line"]) for item in json.loads(done.stdout)["diagnostics"]] == [
        ("LB400", "nowhere", None)
    ]


@pytest.mark.large
def test_torch_is_never_imported(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.lbr").write_text("lowest 3 by nll drop\nelse swa(window=4Ki)\nassert kv(1Ki) <= 50%", encoding="utf-8")
    code = (
        "import sys; from lbdsl.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "check", "--model", str(model), str(tmp_path / "a.lbr")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "LB326" in done.stdout


CHOOSE = "choose for layers all among {} minimizing kl subject to kv(1Ki) <= 90%, {}\nelse keep"


@pytest.mark.parametrize(
    ("among", "serves", "code"),
    [
        # No format of vLLM has windows with sink tokens.
        ("swa(window=256, sinks=4), swa(window=128, sinks=4)", 'serves("vllm")', 5),
        ("swa(window=256, sinks=4), swa(window=128, sinks=4)", 'serves("transformers")', 0),
        ("keep, swa(window=256, sinks=learned)", 'serves("vllm")', 0),
    ],
)
def test_what_no_format_of_an_engine_serves_is_found_before_measuring(
    model: Path, among: str, serves: str, code: int
) -> None:
    done = run(model, CHOOSE.format(among, serves) + GATED)
    assert done.exit_code == code, done.stdout
    assert (f"error[LB356] `{serves}` cannot be met" in done.stdout) is bool(code)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('eval { tasks = ["nofile.yaml"] }', "<stdin>:3:16: error[LB456] there is no file nofile.yaml"),
        ('assert recovery(task("nofile.yml")) > 90%', "<stdin>:3:8: error[LB456] there is no file nofile.yml"),
        ('measure { data = "no.txt" }', "<stdin>:3:18: error[LB441] there is no file no.txt"),
        ('heal { data = mix("builtin:docs", "no.jsonl") }', "error[LB441] there is no file no.jsonl"),
        ('eval { data = ["builtin:wikitext", "sub.d"] }', "error[LB440] 'sub.d' is not a text source"),
        ('assert recovery(needle("no.jsonl")) > 90%', "<stdin>:3:8: error[LB441] there is no file no.jsonl"),
        ('eval { needle = [1Ki, "no.jsonl"] }', "<stdin>:3:17: error[LB441] there is no file no.jsonl"),
        ('eval { tasks = ["own.yaml"]; data = "own.txt" }', None),
        ('eval { data = "some/dataset" }', None),
    ],
)
def test_files_that_are_not_there_are_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("task: own\n")
    (tmp_path / "own.txt").write_text("text")
    done = run(model, f"layers 3 drop\nelse keep\n{line}\n")
    assert (said or "0") in done.stdout + "0"
    assert done.exit_code == (0 if said is None else 1), done.stdout


def test_a_score_by_a_task_of_no_file_is_found(model: Path) -> None:
    done = run(model, 'lowest 3 by task("nofile.yaml", drop) drop\nelse keep' + GATED)
    assert "<stdin>:1:13: error[LB456] there is no file nofile.yaml" in done.stdout


@pytest.mark.slow
@pytest.mark.torch
def test_a_task_that_the_harness_does_not_have_is_found_where_it_is_installed(model: Path) -> None:
    pytest.importorskip("lm_eval")
    done = run(model, 'layers 3 drop\nelse keep\neval { tasks = ["helaswag", "hellaswag"] }')
    assert "<stdin>:3:16: error[LB456] lm-evaluation-harness has no task `helaswag`" in done.stdout
    assert done.stdout.count("LB456") == 1


def codes(text: str, facts=None) -> list[str]:
    return [d.code for d in check_recipe(text, facts=facts or smollm2_facts()).diagnostics]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("layers first 31 keep", "LB302"),
        ("layers every 4 from 30 drop", "LB303"),
        ("lowest 31 by nll drop", "LB302"),
        ("layers 29-30 keep", "LB300"),
        ("layers last 40 keep", "LB302"),
        ("layers 0-14 keep\nlayers 15-29 drop\nlowest 3 of rest by nll drop", "LB310"),
        ("lowest 1% by nll drop", "LB310"),
        ("layers first 50% keep\nlayers 3-5 drop\nwhere nll < 0.1 drop", "LB307"),
        ("layers 0-3 and 7-9 keep\nwhere nll < 0.1 drop", "LB310"),
        ("where nll < 0.1 swa(window=8Ki)", "LB326"),
        ("else swa(window=16Ki)", "LB326"),
        ("lowest 3 by nll drop\nassert kv(32Ki) <= 50%", "LB324"),
        ("layers 3 drop", "LB311"),
        ("lowest 3 by nll drop\nassert model.layers < 20", "LB321"),
        ("lowest 8 by nll swa(window=64)\nelse keep\nassert weights <= 80MB", "LB321"),
        # Of 30 layers 22 stay as they are.
        ("lowest 8 by nll swa(window=64)\nelse keep\nassert kv(8Ki) <= 73%", "LB321"),
        ("lowest 8 by nll keep\nelse swa(window=64)\nassert kv(8Ki) <= 27%", "LB321"),
        ("where nll < 0.1 drop\nelse keep\nassert kv(8Ki) < 50% and params < 80%", "LB321"),
        ("lowest 31 of rest by nll drop", "LB302"),
    ],
)
def test_findings_without_measuring(text: str, wanted: str) -> None:
    assert wanted in codes(text)


@pytest.mark.parametrize(
    "text",
    [
        "layers 0-29 keep" + GATED,
        "lowest 30 by nll drop\nelse keep" + GATED,
        "layers 0-14 keep\nlowest 3 of rest by nll drop\nelse keep" + GATED,
        "layers 0-3 keep\nlayers 2-4 drop\nelse swa(window=512)" + GATED,
        "layers 3 keep\nlayers 3 drop(mlp)\nelse keep" + GATED,
        "lowest 8 by nll swa(window=64)\nelse keep\nassert kv(8Ki) <= 74%" + GATED,
        "lowest 8 by nll keep\nelse swa(window=64)\nassert kv(8Ki) <= 28%" + GATED,
        "where nll < 0.1 drop\nelse keep\nassert kv(8Ki) < 50% and params > 80% or weights < 1GB" + GATED,
    ],
)
def test_what_fits_has_no_errors(text: str) -> None:
    assert not [d for d in check_recipe(text, facts=smollm2_facts()).diagnostics if d.is_error]


def test_a_rule_shadowed_by_ranges_is_said_once() -> None:
    text = "layers 0-9 keep\nlayers 2-4 drop\nelse keep" + GATED
    assert codes(text).count("LB202") + codes(text).count("LB307") == 1
    assert "LB202" in codes(text)


def test_layers_without_a_rule_are_said_once() -> None:
    found = codes("layers 3 drop" + GATED)
    assert "LB311" in found
    assert "LB206" not in found


def test_windows_of_the_layers_themselves() -> None:
    facts = llama_facts(layers=4, positions=8192, native_window=512)
    found = check_recipe(
        "where kl < 0.1 drop\nwhere nll(swa(256)) < 0.1 swa(window=1Ki)\nelse keep" + GATED, facts=facts
    ).diagnostics
    # A note on what stands beyond the window would be wrong: the recipe gives layers none.
    assert [d.code for d in found] == ["LB327"]
    assert found[0].span is not None
    assert found[0].span.text.startswith("where nll")


def beyond(text: str, facts=None) -> list[str]:
    """What is said of text beyond the windows: the messages, each with the help."""
    found = check_recipe(text + GATED, facts=facts).diagnostics
    return [f"{d.message}; {d.help[0]}" for d in found if d.code == "LB360"]


def test_what_stands_beyond_windows_is_said_once_and_within_the_models_positions() -> None:
    said = (
        "windows of 3Ki tokens, and nothing asks what stands beyond them; perplexity hardly shows what is lost there: add "
    )
    text = "layers 3 swa(window=3Ki)\nelse keep\nassert kv(32Ki) <= 100%"
    assert beyond(text) == [said + "`assert recovery(needle(12Ki)) >= 80%`"]
    assert beyond(text, smollm2_facts()) == [said + "`assert recovery(needle(8Ki)) >= 80%`"]
    ranked = text.replace("layers 3", "lowest 4 by kl(swa(window=3Ki))")
    assert beyond(ranked, smollm2_facts()) == [said + "`assert recovery(needle(8Ki)) >= 80%`"]


def test_nothing_is_said_of_windows_where_no_layer_gets_one_or_no_text_is_long_enough() -> None:
    shadowed = "layers all keep\nlayers 3 swa(window=64)"
    assert beyond(shadowed)
    assert beyond(shadowed, smollm2_facts()) == []
    assert beyond("else swa(window=64)", llama_facts(layers=4, positions=128)) == []
    assert beyond("else swa(window=64)", llama_facts(layers=4, positions=512)) == [
        "windows of 64 tokens, and nothing asks what stands beyond them; perplexity hardly shows what is lost there: add "
        "`assert recovery(needle(512)) >= 80%`"
    ]


IMPOSSIBLE = [
    "lowest of rest by nll until kv(8Ki) <= {} drop\nelse keep",
    "layers 0-3, 20-29 keep\nlowest of rest by nll until kv(8Ki) <= {} swa(window=512)\nelse keep",
    "layers 0-3 keep\nlowest 8 of rest by kl drop\nlowest of rest by nll until flops(8Ki) <= {} drop\nelse keep",
    "layers 0-3 keep\nlowest 4 by nll until params <= {} drop\nelse swa(window=64)",
]


@pytest.mark.parametrize("form", IMPOSSIBLE)
@pytest.mark.parametrize("share", ["0%", "13%", "50%", "90%"])
def test_an_until_is_refused_before_measuring_just_when_no_scores_meet_it(form: str, share: str) -> None:
    facts, recipe = smollm2_facts(), recipe_from_text(form.format(share)).unwrap()
    requests = Case(recipe, facts).measurable().unwrap().requests
    found = impossible_untils(Case(recipe, facts))
    scores = random.Random(0)
    for _ in range(2):
        made = {request: Measurement(scores.random(), 0.01, "nats/token", 1024, 8) for request in requests}
        measured = select(Case(recipe, facts), made)
        assert [d for d in measured.diagnostics if d.is_error] == list(found)
    assert ("LB312" in codes(form.format(share))) == bool(found)


def test_an_until_whose_end_depends_on_scores_is_left_to_them() -> None:
    text = "where nll < 0.1 drop\nlowest of rest by nll until kv(8Ki) <= 0% drop\nelse keep" + GATED
    assert "LB312" not in codes(text)
    mixed = windowed(smollm2_facts(), (512, *(None,) * 29))
    recipe = recipe_from_text("lowest of rest by nll until kv(8Ki) <= 0% swa(window=8)\nelse keep").unwrap()
    for facts, errors in ((mixed, []), (smollm2_facts(), ["LB312"])):
        assert [d.code for d in impossible_untils(Case(recipe, facts))] == errors
