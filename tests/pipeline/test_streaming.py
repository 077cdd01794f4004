"""Measuring from disk, one layer in memory at a time: the very numbers of a loaded model, in bounded memory."""

from __future__ import annotations

import copy
import json
import math
from contextlib import contextmanager
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from lbdsl.actions.drop import Drop
from lbdsl.actions.keep import Keep
from lbdsl.actions.kv_heads import KVHeads
from lbdsl.actions.swa import SlidingWindow
from lbdsl.actions.width import Width
from lbdsl.core.diagnostic import LbdslError
from lbdsl.core.measurement import Request
from lbdsl.core.progress import Calling
from lbdsl.evaluate import quality
from lbdsl.evaluate.quality import judge_on
from lbdsl.layer.weights import stats_in
from lbdsl.measure import flow, runs, streamed_model
from lbdsl.measure.layer_source import LoadedModel
from lbdsl.measure.runs import BASE_NLL, Measuring
from lbdsl.measure.scores import measure_plans, measure_requests
from lbdsl.measure.statistics import take_statistics
from lbdsl.measure.store import open_store
from lbdsl.measure.streamed_model import StreamedModel
from lbdsl.model.computing import cast_weights
from lbdsl.model.inspect import inspect_model
from lbdsl.model.load import load_base
from lbdsl.model.source import resolve_source
from lbdsl.model.surgery import to_hybrid
from tests.family_cases import FAMILY_NAMES, VOCAB, family_base
from tests.measure_cases import LAYERS, text

ACTIONS = {a.text(): a for a in (Drop(), SlidingWindow(window=6, sinks=2), Drop(target="mlp"), Keep())}
REQUESTS = tuple(
    Request(metric, action, layer) for metric in ("nll", "kl") for action in ACTIONS for layer in range(LAYERS)
) + tuple(Request("influence", part, layer) for part in ("", "block") for layer in range(LAYERS))


def case(folder, name: str, dtype: str = "float32", **changes) -> SimpleNamespace:
    """A saved model of a family, its facts, and the model loaded."""
    model = family_base(name, **changes)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="30KB")
    source = resolve_source(str(folder))
    facts = inspect_model(source, dtype).unwrap()
    return SimpleNamespace(
        folder=folder, facts=facts, loaded=LoadedModel(to_hybrid(load_base(source, dtype=dtype, device="cpu")))
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return case(tmp_path_factory.mktemp("llama"), "llama")


def blocks_of(sequences: int = 5, seq: int = 37):
    blocks = text(sequences, seq)
    assert VOCAB >= 97
    return blocks


def measure(model, facts, folder, requests=REQUESTS, actions=ACTIONS, **options):
    with open_store(folder) as store:
        return measure_requests(Measuring(lambda: model, blocks_of(), store, "print", **options), facts, requests, actions)


def changes_of(facts):
    """A window, no attention, no MLP."""
    changing = {0: SlidingWindow(window=6, sinks=1), 2: Drop(), 3: Drop(target="mlp")}
    return {layer: action.under(facts, layer) for layer, action in changing.items()}


def joint(model, facts, folder, **options):
    with open_store(folder) as store:
        plans = {"selection": changes_of(facts)}
        return measure_plans(Measuring(lambda: model, blocks_of(), store, "print", **options), plans, ("nll", "kl"))


DIFFERENT = ("llama", "gemma3_text", "phi3", "olmo3")


@pytest.mark.parametrize(
    "name", [name if name in DIFFERENT else pytest.param(name, marks=pytest.mark.slow) for name in FAMILY_NAMES]
)
def test_the_same_numbers_as_loaded(tmp_path, name):
    it = case(tmp_path / "model", name)
    streamed = StreamedModel(it.folder, it.facts, "cpu")
    loaded = measure(it.loaded, it.facts, tmp_path / "a", batch=2)
    disk = measure(streamed, it.facts, tmp_path / "b", batch=2)
    assert disk == loaded
    assert len({value.value for value in disk.values()}) > len(disk) / 2
    assert joint(streamed, it.facts, tmp_path / "b", batch=2) == joint(it.loaded, it.facts, tmp_path / "a", batch=2)


@pytest.mark.parametrize("tied", [False, True])
def test_in_bfloat16_and_from_another_dtype(tmp_path, tied):
    it = case(tmp_path / "model", "llama", "bfloat16", tie_word_embeddings=tied)
    streamed = StreamedModel(it.folder, it.facts, "cpu")
    assert measure(streamed, it.facts, tmp_path / "b") == measure(it.loaded, it.facts, tmp_path / "a")
    wide = inspect_model(resolve_source(str(it.folder)), "float32").unwrap()
    loaded = LoadedModel(to_hybrid(load_base(resolve_source(str(it.folder)), dtype="float32", device="cpu")))
    assert measure(StreamedModel(it.folder, wide, "cpu"), wide, tmp_path / "c") == measure(loaded, wide, tmp_path / "d")


NEW_WEIGHTS = {"kv": KVHeads(n=1), "refit": Width(channels=32)}


def test_new_weights_are_rounded_as_they_will_be_saved(tmp_path):
    """Weights in bfloat16, computed with in float32: what is measured is what a file would hold."""
    it = case(tmp_path / "model", "llama", "bfloat16")
    loaded = LoadedModel(cast_weights(to_hybrid(load_base(resolve_source(str(it.folder)), device="cpu")), "float32"))
    streamed = StreamedModel(it.folder, it.facts, "cpu", "float32")
    requests = [Request("kl", action, layer) for action in NEW_WEIGHTS for layer in (0, 2)]
    wanted = {
        layer: stats_in(expr for action in NEW_WEIGHTS.values() for _, expr in action.under(it.facts, layer).weights)
        for layer in (0, 2)
    }
    found, unrounded = [], copy.copy(loaded)
    unrounded.hybrid = copy.copy(loaded.hybrid)
    unrounded.hybrid.saved_dtype = "float32"
    for number, source in enumerate((loaded, streamed, unrounded)):
        folder = tmp_path / str(number)
        statistics = take_statistics(lambda source=source: source, it.facts, wanted, blocks_of(), folder, "print")
        found.append(measure(source, it.facts, folder, requests, NEW_WEIGHTS, statistics=statistics))
    assert found[0] == found[1]
    assert all(found[0][request] != found[2][request] for request in requests)


def test_scores_of_other_statistics_are_not_taken_for_these(llama, tmp_path):
    action = Width(channels=32, refit=False)
    width = llama.facts.layer_specs[1].ffn.width
    request, importance = Request("kl", "width", 1), torch.arange(width).float()
    found = [
        measure(
            llama.loaded,
            llama.facts,
            tmp_path,
            [request],
            {"width": action},
            statistics=lambda layer, value=value: {"channel_importance": value},
        )[request]
        for value in (importance, -importance, importance)
    ]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("streams", [0, 3, 12, 40])
def test_passes_of_any_size_give_the_same(llama, tmp_path, monkeypatch, streams):
    loaded = measure(llama.loaded, llama.facts, tmp_path / "a", batch=2)
    streamed = StreamedModel(llama.folder, llama.facts, "cpu")
    monkeypatch.setattr(flow, "free_bytes", lambda device: streams * 2 * 37 * 32 * 4 / flow.SHARE)
    reports = []
    disk = measure(
        streamed, llama.facts, tmp_path / "b", batch=2, progress=lambda done, total, note="": reports.append((done, total))
    )
    assert disk == loaded
    assert joint(streamed, llama.facts, tmp_path / "b", batch=2) == joint(
        llama.loaded, llama.facts, tmp_path / "a", batch=2
    )
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1][0] == pytest.approx(reports[-1][1])
    assert len({total for _, total in reports}) == 1


class Reads:
    """Counts how often each tensor is read whole, and the most bytes of weights that are there at once."""

    def __init__(self, streamed, monkeypatch):
        self.counts: dict[str, int] = {}
        read = streamed._files.read

        def counted(name):
            self.counts[name] = self.counts.get(name, 0) + 1
            return read(name)

        monkeypatch.setattr(streamed._files, "read", counted)


def test_each_layer_is_read_once(llama, tmp_path, monkeypatch):
    streamed = StreamedModel(llama.folder, llama.facts, "cpu")
    reads = Reads(streamed, monkeypatch)
    measure(streamed, llama.facts, tmp_path, batch=2)
    assert set(reads.counts.values()) == {1}
    assert "model.embed_tokens.weight" not in reads.counts, "rows are gathered"
    assert sum(f"layers.{i}." in name for name in reads.counts for i in range(LAYERS)) > 4 * 9
    for parameter in streamed.hybrid.parameters():
        assert parameter.untyped_storage().nbytes() <= 4, "no weight stays"


def test_a_large_head_is_used_in_pieces(llama, tmp_path, monkeypatch):
    loaded = measure(llama.loaded, llama.facts, tmp_path / "a")
    monkeypatch.setattr(streamed_model, "HEAD_BYTES", 100)
    monkeypatch.setattr(streamed_model, "PIECE_BYTES", 32 * 4 * 7)
    streamed = StreamedModel(llama.folder, llama.facts, "cpu")
    reads = Reads(streamed, monkeypatch)
    disk = measure(streamed, llama.facts, tmp_path / "b")
    assert "lm_head.weight" not in reads.counts
    for request, value in loaded.items():
        assert disk[request].value == pytest.approx(value.value, abs=1e-6)


def test_resumed_after_an_interrupt(llama, tmp_path, monkeypatch):
    """What whole passes have found is kept; only the rest is measured."""
    monkeypatch.setattr(flow, "free_bytes", lambda device: 40 * 2 * 37 * 32 * 4 / flow.SHARE)
    streamed = StreamedModel(llama.folder, llama.facts, "cpu")

    def stop(done, total, note=""):
        if note == "sequences 5-5 of 5, layer 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(streamed, llama.facts, tmp_path / "b", batch=2, progress=stop)
    pushed = []
    push = runs.push
    monkeypatch.setattr(
        runs, "push", lambda source, flows, *a, **k: (pushed.append(len(flows)), push(source, flows, *a, **k))
    )
    disk = measure(streamed, llama.facts, tmp_path / "b", batch=2)
    assert sum(pushed) == 1, "of three micro-batches two were through"
    assert disk == measure(llama.loaded, llama.facts, tmp_path / "a", batch=2)


@pytest.fixture(scope="module")
def artifact(llama, tmp_path_factory):
    """A changed model, its head among it: its folder, its facts, and the model loaded."""
    from lbdsl.artifact.runtime_files import write_runtime

    folder = tmp_path_factory.mktemp("artifact")
    changed = to_hybrid(load_base(resolve_source(str(llama.folder)), device="cpu"))
    for layer, change in changes_of(llama.facts).items():
        changed.set_layer(layer, change.spec.to_json())
    with torch.no_grad():
        changed.lm_head.weight *= 1.5
    changed.save_pretrained(folder)
    write_runtime(folder, changed.config)
    facts = inspect_model(resolve_source(str(folder))).unwrap()
    return SimpleNamespace(folder=folder, facts=facts, loaded=LoadedModel(changed))


def test_an_artifact_from_disk(artifact, tmp_path):
    streamed = StreamedModel(artifact.folder, artifact.facts, "cpu")
    wanted = [Request("nll", "drop", 1), Request("influence", "", 0), Request("influence", "", 2)]
    loaded = measure(artifact.loaded, artifact.facts, tmp_path / "a", wanted)
    assert measure(streamed, artifact.facts, tmp_path / "b", wanted) == loaded
    with pytest.raises(LbdslError) as caught:
        measure(streamed, artifact.facts, tmp_path / "c", [Request("nll", "swa(window=6, sinks=2)", 2)])
    assert caught.value.diagnostics[0].code == "LB449"


@pytest.mark.parametrize("streams", [0, 7, 100])
def test_judging_is_the_same_loaded_or_from_disk(llama, artifact, monkeypatch, streams):
    monkeypatch.setattr(flow, "free_bytes", lambda device: streams * 2 * 37 * 32 * 4 / flow.SHARE)
    bases, results = ((it.loaded, StreamedModel(it.folder, it.facts, "cpu")) for it in (llama, artifact))
    found, pushed, push, kept = [], [], quality.push, {id(base): {} for base in bases}

    def watched(source, flows, *rest):
        pushed.extend([source] * len(flows))
        push(source, flows, *rest)

    monkeypatch.setattr(quality, "push", watched)
    for base, its in product(bases, results):
        reports = []
        progress = Calling(lambda stage, done, total, note, reports=reports: reports.append((done, total)))
        found += judge_on(base, its, [blocks_of()], "judging", progress, 2, kept[id(base)])
        # A base is run once.
        assert pushed.count(base) == len(kept[id(base)][blocks_of().digest]) > 1
        assert [done for done, _ in reports] == sorted(done for done, _ in reports)
        assert reports[-1][0] == pytest.approx(reports[-1][1])
    assert found == [found[0]] * 4
    with torch.no_grad():
        ids = blocks_of().ids
        base, its = (
            torch.log_softmax(it.loaded.hybrid(ids).logits, -1)[:, :-1].gather(-1, ids[:, 1:, None]).mean().item()
            for it in (llama, artifact)
        )
    assert (found[0].base_nll.value, found[0].nll.value) == pytest.approx((-base, -its), abs=1e-5)
    assert found[0].rise.value == pytest.approx(base - its, abs=1e-5)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_around_a_layer_and_its_statistics(llama, monkeypatch, streamed):
    source = StreamedModel(llama.folder, llama.facts, "cpu") if streamed else LoadedModel(llama.loaded.hybrid)
    seen, given, variant_of = [], {}, flow.variant_of

    @contextmanager
    def around(index, layer):
        taken = []
        hook = layer.mlp.down_proj.register_forward_hook(lambda _module, args, _out: taken.append(tuple(args[0].shape)))
        yield
        hook.remove()
        seen.append((index, taken))

    def variant(model, layer, change, statistics):
        given[layer] = statistics["of"].item()
        return variant_of(model, layer, change, statistics)

    monkeypatch.setattr(flow, "variant_of", variant)
    ids = blocks_of().ids
    width = llama.facts.layer_specs[0].ffn.width
    flows = [flow.Flow(ids[:2], [{1: Drop().under(llama.facts, 1)}]), flow.Flow(ids[2:])]
    flow.push(source, flows, around=around, statistics=lambda layer: {"of": torch.tensor(layer)})
    assert seen == [(index, [(2, 37, width)] * (1 + (index > 1)) + [(3, 37, width)]) for index in range(LAYERS)]
    assert given == {1: 1}


def test_nothing_to_measure_is_only_the_base(llama, tmp_path):
    streamed = StreamedModel(llama.folder, llama.facts, "cpu")
    found = measure(streamed, llama.facts, tmp_path, [])
    assert set(found) == {BASE_NLL}
    assert math.isfinite(found[BASE_NLL].value)


class TestOnTheCommandLine:
    @pytest.fixture
    def never_loaded(self, monkeypatch):
        def never(*_, **__):
            raise AssertionError("the model was loaded")

        monkeypatch.setattr("lbdsl.session.model.OpenModel.base", property(never))
        monkeypatch.setattr("lbdsl.artifact.restore.load_artifact", never)

    def numbers(self, lbdsl, cache, *words) -> list:
        """What `plan`, `apply` and `eval` say of a recipe with scores, a joint loss and a gate."""
        planned = lbdsl("plan", "tiny.lbr", "model", "-o", f"{cache}.lbplan", "--json", "--cache-dir", cache, *words)
        assert planned.code == 0, planned.err
        applied = lbdsl("apply", f"{cache}.lbplan", "-o", f"{cache}-out", "--no-heal", "--cache-dir", cache, *words)
        assert applied.code == 0, applied.err
        judged = lbdsl("eval", f"{cache}-out", "--json", "--cache-dir", cache, *words)
        assert judged.code == 0, judged.err
        plan = json.loads(planned.out)
        del plan["estimate"], plan["speeds"]  # how long things take is another matter
        return [plan, json.loads(judged.out)]

    def test_low_memory_gives_the_same_numbers_and_loads_no_model(self, workplace, lbdsl, request, new_cache):
        for cache in "ab":
            new_cache(workplace / cache)
        loaded = self.numbers(lbdsl, "a")
        request.getfixturevalue("never_loaded")
        assert self.numbers(lbdsl, "b", "--low-memory") == loaded

    def test_chosen_when_the_model_does_not_fit(self, workplace, lbdsl, monkeypatch, never_loaded):
        monkeypatch.setattr("lbdsl.measure.memory.free_bytes", lambda device: 1000)
        done = lbdsl("measure", "tiny.lbr", "model", "--cache-dir", "a")
        assert done.code == 0, done.err
        assert "stay on disk" in done.err

    def test_healing_what_does_not_fit_is_refused(self, workplace, lbdsl, monkeypatch, never_loaded, new_cache):
        new_cache(workplace / "a")
        monkeypatch.setattr("lbdsl.measure.memory.free_bytes", lambda device: 1000)
        done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--cache-dir", "a")
        assert done.code == 1
        assert "LB482" in done.err
        assert "--no-heal" in done.err
        assert not (workplace / "out").exists()
        assert not (workplace / "out.lbdsl-work").exists()
        done = lbdsl("apply", "tiny.lbr", "model", "-o", "out", "--yes", "--no-heal", "--cache-dir", "a")
        assert done.code == 0, done.err


def test_free_memory(tmp_path):
    from lbdsl.measure.memory import _left_in_container, fits, free_bytes

    assert 0 < free_bytes("cpu") < 2**50
    assert _left_in_container(tmp_path) == 2**63
    for name, content in (("memory.max", "5000"), ("memory.current", "4000"), ("memory.stat", "file 9\ninactive_file 700")):
        (tmp_path / name).write_text(content + "\n")
    assert _left_in_container(tmp_path) == 1700
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_container(tmp_path) == 2**63
    facts = SimpleNamespace(params=free_bytes("cpu") // 8, dtype_bytes=4)
    assert fits(facts, "cpu")
    assert not fits(facts, "cpu", 2)
