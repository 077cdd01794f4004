"""The picture of a plan: strips, marks, plain terminals, and text that means harm."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lbdsl.artifact.record import Record
from lbdsl.core.pictures import svg_of
from lbdsl.core.printed import printable
from lbdsl.core.units import Unit
from lbdsl.plan.recall import RecallLoss, RecallOfKind
from lbdsl.plan.schema import ScoreValue, Speed
from lbdsl.report.compared import draw_front
from lbdsl.report.console import ascii_only, make_console, stderr_console, stdout_console
from lbdsl.report.facts import render_facts
from lbdsl.report.plan import render_plan, score_labels
from lbdsl.report.report import render_quality, render_report
from lbdsl.report.strip import ASCII_LEVELS, LEVELS, Row, Scale, strip_lines
from tests.plan_cases import joint_loss, llama_facts, plan_of, smollm2_facts

JOINT = joint_loss(0.47, 0.41, stderr=0.02, base_nll=2.88)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(plan, width=80, speeds=(), file=None, **options) -> str:
    plan = plan.model_copy(update={"speeds": tuple(speeds)})
    out = file if file is not None else io.StringIO()
    render_plan(plan, make_console(out, width), **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def plan():
    return plan_of(
        "layers 0-1 keep\nlowest 7 of rest by nll drop\nelse swa(window=256, sinks=4)", smollm2_facts(), joint=JOINT
    )


@pytest.mark.parametrize("layers", [1, 7, 8, 9, 30, 32, 80, 81, 126])
@pytest.mark.parametrize("width", [80, 120])
def test_a_strip_shows_every_layer_once_and_fits(layers, width):
    marks = [chr(ord("a") + i % 26) for i in range(layers)]
    lines = [line.plain for line in strip_lines([Row("plan", marks, [""] * layers)], width)]
    assert max(map(len, lines)) <= width
    assert "".join("".join(line.split()[1:]) for line in lines if line.startswith(" plan")) == "".join(marks)
    rulers = [line for line in lines if line.startswith(" layer")]
    assert rulers[0].split()[1] == "0"
    # Every number of a ruler stands over the layer it names, its last digit over the last layer of the line.
    for ruler, row in zip(rulers, (line for line in lines if line.startswith(" plan")), strict=True):
        first = int(ruler.split()[1])
        for number in ruler.split()[1:]:
            column = ruler.index(f" {number}") + 1
            over_first = row[column:][:1] == marks[int(number)]
            over_last = row[column + len(number) - 1 :][:1] == marks[int(number)]
            assert over_first or over_last, (first, number)


def test_scale_is_logarithmic_and_takes_what_is_not_positive():
    scale = Scale.of([0.001, 0.01, 10.0, -1.0], LEVELS)
    assert [scale.mark(value) for value in (-1.0, 0.001, 0.1, 10.0)] == ["▁", "▁", "▅", "█"]
    assert Scale.of([-1.0, 0.0], LEVELS) is None
    assert Scale.of([0.5], ASCII_LEVELS).mark(0.5) == ASCII_LEVELS[-1]


def test_default_shows_two_of_each_kind_and_all_shows_all(plan):
    short, full = drawn(plan), drawn(plan, all_layers=True)
    assert short.count("layer ") < full.count("layer ")
    assert "... 24 more (--all)" in short
    assert "more (--all)" not in full
    assert full.count("attention dropped") == 7
    assert full.count("window full → 256 + 4 sinks") == 21


def test_what_is_predicted_measured_and_missing_is_plain(plan):
    text = drawn(plan, 120, (Speed(context=8192, batch=1, bound=1.6), Speed(context=8192, batch=2, bound=float("nan"))))
    assert "decode bound  8Ki, batch 1:  x1.60   predicted from bytes and FLOPs, not measured" in text
    assert "+0.47 ±0.02 nats/token measured jointly\n" in text
    assert "It changes 28 of 30 layers, heals nothing and gates nothing." in text
    unmeasured = drawn(plan_of("layers 3 drop\nelse keep", smollm2_facts()))
    assert "not measured yet" in unmeasured
    assert "Not applyable yet" in unmeasured


def test_the_sum_of_scores_is_shown_with_its_warning():
    plan = plan_of("lowest 4 by nll drop\nelse keep", smollm2_facts(), joint=JOINT)
    assert "(sum of the single layers +0.089: do not trust it)" in " ".join(drawn(plan).split())


def test_labels_of_two_scores_with_one_metric():
    plan = plan_of("lowest 2 by kl drop\nlowest 2 of rest by kl(swa(window=64)) swa(window=64)\nelse keep", smollm2_facts())
    assert score_labels(plan) == {"kl(drop)": "kl", "kl(swa(window=64))": "kl-2"}
    sens = plan_of("lowest 2 by sensitivity drop\nelse keep", smollm2_facts())
    assert score_labels(sens) == {"nll(drop)": "sens"}


def test_colours_only_on_a_terminal(plan, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in drawn(plan, file=Terminal())
    assert "\x1b" not in drawn(plan)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in drawn(plan)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in drawn(plan, file=Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    text = drawn(plan, file=Terminal())
    assert "\x1b" not in text
    assert text.isascii()


def test_an_encoding_that_lacks_the_marks_gets_ascii(plan):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    render_plan(plan, make_console(file, 80))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "window full -> 256 + 4 sinks" in text
    assert "+-0.02" in text


def test_text_that_an_encoding_lacks_is_no_error():
    plan = plan_of('layers 3 drop because "größer → 象"\nelse keep', smollm2_facts(), joint=JOINT)
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    render_plan(plan, make_console(file, 80))
    file.flush()
    assert b"gr??er" in raw.getvalue()


def test_control_characters_of_a_recipe_do_not_reach_the_terminal():
    assert printable("a\x1b[31mb\nc\u202ed") == r"a\x1b[31mb c\u202ed"


def test_markup_of_a_recipe_is_text():
    plan = plan_of('layers 3 drop because "[bold]x[/bold] [/nonsense]"\nelse keep', smollm2_facts(), joint=JOINT)
    assert "[bold]x[/bold] [/nonsense]" in drawn(plan)


def test_the_perplexity_of_a_broken_model_is_drawn():
    broken = joint_loss(1000.0, base_nll=2.0)
    assert "perplexity 7.39 → e^1002" in drawn(plan_of("layers 3 drop\nelse keep", smollm2_facts(), joint=broken))


def test_markup_in_names_is_text(plan, tmp_path):
    name = "m[bold]x[/red]"
    record = Record(
        lbdsl_version="0",
        status="rejected",
        plan_digest="0",
        plan=plan,
        layer_map=(),
        changes=(),
        no_heal=False,
        heal=None,
        evaluation=None,
        asserts=(),
        files={},
    )
    for render in (
        lambda console: render_facts(smollm2_facts(), name, console),
        lambda console: render_report(record, tmp_path / name, console),
    ):
        console = Console(file=io.StringIO(), width=300)
        render(console)
        assert name in console.file.getvalue()


def test_a_window_of_the_models_own_is_said():
    facts = llama_facts(layers=4, native_window=64)
    text = drawn(plan_of("layers 0 swa(window=16)\nelse keep", facts, joint=JOINT))
    assert "window 64 → 16" in text
    assert "layers 1-3 have windows of their own" in text


@pytest.mark.parametrize(
    ("columns", "width", "on_terminal"),
    [("40", 80, 40), ("60", 80, 60), ("20", 80, 40), ("100", 100, 100), ("300", 120, 120)],
)
def test_width_is_that_of_the_terminal_and_else_80_to_120(monkeypatch, columns, width, on_terminal):
    monkeypatch.setenv("COLUMNS", columns)
    assert make_console(io.StringIO()).width == width
    assert make_console(Terminal()).width == on_terminal


@pytest.mark.parametrize("width", [40, 60, 79])
def test_a_plan_on_a_narrow_terminal_fits_and_loses_nothing(width):
    text = (
        "layers 0-1 keep\nlowest 7 of rest by nll drop\nelse swa(window=256, sinks=4) + drop(mlp)\n"
        'assert kv(8Ki) <= 40%\nassert ppl_increase("builtin:wikitext") < 15%'
    )
    speeds = (Speed(context=8192, batch=1, bound=1.6),)
    plan = plan_of(text, smollm2_facts(), joint=JOINT)
    shown, usual = drawn(plan, width, speeds), drawn(plan, 80, speeds)
    assert max(map(len, shown.splitlines())) <= width
    # The same words in the same order, but for those of strips and rules, which are laid out for each width.
    after, before = ("".join(found[found.index("decode bound") :].split()) for found in (shown, usual))
    assert after == before
    for words in ("rule 3", "lowest 7 of rest by nll drop", "KV@8Ki 6.00 MiB → 195.0 KiB", "256.6 MiB", "-60 %"):
        assert words in " ".join(shown.split()), words


def test_where_consoles_write(capsys):
    stdout_console().print("data")
    stderr_console().print("message")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("data\n", "message\n")


def test_ascii_only_follows_the_encoding(monkeypatch):
    monkeypatch.delenv("TERM", raising=False)
    assert not ascii_only(Console(file=io.StringIO()))
    assert ascii_only(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="latin-1")))


@pytest.mark.parametrize("width", [80, 120])
def test_a_layer_is_shown_with_every_action(width):
    text = (
        "layers 3 swa(window=256, sinks=4) + drop(mlp)\nlayers 4 drop(mlp)\nlayers 5 drop(attention) + quantize(bits=4)\n"
        'layers 6 drop(block)\nmodules "*.layers.7.mlp.*" quantize(bits=4)\nelse keep\n'
    )
    shown = " ".join(drawn(plan_of(text, smollm2_facts(), joint=JOINT), width, all_layers=True).split())
    third = shown.split("layer 3 ")[1].split("layer 4 ")[0]
    assert third.startswith("MLP dropped, ")
    assert "window full → 256 + 4 sinks, " in third
    assert shown.split("layer 3 ")[1].split("layer 4 ")[0].count("MLP dropped") == 1
    assert "layer 4 MLP dropped" in shown
    fifth = shown.split("layer 5 ")[1].split("layer 6 ")[0]
    assert fifth.startswith("attention dropped, ")
    assert "3 modules → W4A16, groups of 64" in fifth
    assert "layer 6 attention and MLP dropped" in shown
    assert "layer 7 3 modules → W4A16, groups of 64" in shown
    assert shown.count("params") >= 4
    assert "…" not in shown


def test_what_the_model_lacked_before_is_not_shown_as_dropped():
    plan = plan_of("layers 3 swa(window=256)\nelse keep", smollm2_facts(), joint=JOINT)
    layers = tuple(
        layer.model_copy(update={"before": layer.before.replace(ffn=None), "after": layer.after.replace(ffn=None)})
        for layer in plan.layers
    )
    assert "MLP dropped" not in drawn(plan.model_copy(update={"layers": layers}))


def test_a_metrics_name_from_a_file_is_text():
    name = "m[bold]x[/red]\x1b[31m"
    loss = JOINT.model_copy(update={"scores": {**JOINT.scores, name: ScoreValue(value=0.25, unit=Unit.RATIO)}})
    plan = plan_of("layers 3 drop\nelse keep", smollm2_facts(), joint=loss)
    assert r"m[bold]x[/red]\x1b[31m 25 %" in " ".join(drawn(plan).split())
    score = {"value": 0.25, "stderr": None, "unit": "ratio"}
    quality = {
        "data": "x",
        "tokens": 1,
        "perplexity": {"base": 2.0, "artifact": None},
        "loss_rise": 0.1,
        "scores": {name: score},
        "stderr": {"perplexity_base": None, "perplexity_artifact": None, "loss_rise": 0.01},
    }
    out = io.StringIO()
    render_quality(quality, (), make_console(out, 80))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["perplexity", "2.00", "not", "a", "number"] in rows
    assert ["loss", "rise,", "nats/token", "0.1000", "±0.0100"] in rows
    assert [r"m[bold]x[/red]\x1b[31m", "25.00", "%"] in rows


def test_values_of_asserts_have_their_standard_error() -> None:
    from lbdsl.plan.schema import BARELY, AssertResult
    from lbdsl.recipe.schema import Phase
    from lbdsl.report.plan_tables import result_lines

    results = (
        AssertResult(text="model.layers > 1", phase=Phase.STATIC, status="pass", value=None, unit=None, on=None),
        AssertResult(text="params < 100%", phase=Phase.STATIC, status="pass", value=0.5, unit="ratio", on=None),
        AssertResult(text="acc > 40%", phase=Phase.POST, status="pass", value=0.5, unit="ratio", on="a", error=0.01),
    )
    lines = [line.plain for line in result_lines(results, 80, False)]
    assert [line.split("pass")[1].strip() for line in lines] == ["", "50 %", "50 ±1 % on a"]
    help = ("about 40 questions decide",)
    barely = results[2].model_copy(update={"status": BARELY, "help": help})
    text = "\n".join(line.plain.strip() for line in result_lines((*results[:2], barely), 80, False))
    assert "pass, by less than its error   50 ±1 % on a\n1 of 3 asserts undecided: another sample may say" in text
    assert text.endswith("about 40 questions decide")


@pytest.mark.parametrize(
    ("eval", "said"),
    [
        ("seq = 8Ki", "layers were chosen on 1Ki, and longer text may lose more: to choose on it, `measure { seq = 8Ki }`"),
        ("seq = 2Ki", ""),
    ],
)
def test_losses_say_the_length_of_their_sequences(eval: str, said: str) -> None:
    plan = plan_of(f"lowest 4 by nll drop\nelse keep\neval {{ {eval} }}", smollm2_facts(), joint=JOINT)
    text = " ".join(drawn(plan).split())
    assert "(8Ki tokens in sequences of 1Ki)" in text
    assert "on 4 x 1Ki tokens" in text
    assert said in text
    assert ("layers were chosen on" in text) is bool(said)
    assert plan.to_json()["measured_on"]["seq"] == 1024


def test_a_sweep_draws_what_is_found_beside_the_loss(plan) -> None:
    kinds = {"words": RecallOfKind(asked=10, base=8, found=6, rise=0.4)}
    recall = RecallLoss(value=0.4, kinds=kinds, longest=1024, tokens=4096, digest="0")

    def svg(**plans) -> str:
        draw_front(plans, "a sweep", file := io.StringIO())
        return svg_of(file)

    one = svg(a=plan, b=plan)
    assert "KL to the base" in one
    assert "answers found" not in one
    both = svg(a=plan, b=plan.model_copy(update={"recall": recall}))
    assert "KL to the base" in both
    assert "answers found before healing, % of the base" in both
    assert (one.count(">a<"), both.count(">a<"), both.count(">b<")) == (1, 1, 2)
