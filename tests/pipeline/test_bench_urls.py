"""`bench --url`: two servers with vLLM's API, here programs that answer as it does; the real ones are in tests/engines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lbdsl.api.benching import bench_artifact
from lbdsl.artifact.record import read_record
from lbdsl.bench.engine_url import AtUrls
from lbdsl.cli.app import cli
from lbdsl.core.diagnostic import LbdslError
from lbdsl.session.options import RunOptions
from tests.pipeline.test_quantize import applied
from tests.tiny_model import byte_tokenizer, save_tiny_model

EOS = byte_tokenizer().eos_token_id


class Server:
    """Writes a token each `pause` seconds; `wrong` names what it does not do as vLLM does."""

    def __init__(self, name: str, pause: float = 0.002, wrong: str = ""):
        self.name, self.pause, self.wrong = name, pause, wrong
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def json(self, path: str, job: dict[str, Any]) -> Any:
        if path == "/v1/models":
            models = [{"id": self.name, "max_model_len": 40 if self.wrong == "short" else 512}]
            return {"data": models * (2 if self.wrong == "two" else 1)}
        if path == "/version":
            return {"version": "0.32.0"}
        if path == "/tokenize":
            return {"tokens": [1, 2] if self.wrong == "tokenizer" else byte_tokenizer()(job["prompt"])["input_ids"]}
        return None

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, job: dict[str, Any]) -> None:
                server.keys.add(self.headers["Authorization"])
                if server.wrong == "key" or (server.wrong == "moved" and self.path == "/v1/models"):
                    self.send_response(401 if server.wrong == "key" else 302)
                    self.send_header("Location", "http://127.0.0.1:1/v1/models")
                    self.end_headers()
                    return
                self.send_response(200)
                self.end_headers()
                found = server.json(self.path, job)
                if found is not None:
                    self.wfile.write(json.dumps(found).encode())
                    return
                server.asked.append(job)
                self.stream(job)

            def say(self, piece: dict[str, Any]) -> None:
                self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())

            def stream(self, job: dict[str, Any]) -> None:
                written = job["max_tokens"]
                if server.wrong == "eos" and (job.get("logit_bias") or {}).get(str(EOS)):
                    written = 1
                if server.wrong == "later" and len(server.asked) > 4:
                    written -= 1
                if server.wrong == "breaks" and len(server.asked) > 4:
                    self.say({"error": {"message": "out of memory"}})
                    return
                for _ in range(written):
                    time.sleep(server.pause)
                    self.say({"choices": [{"text": "x"}]})
                self.say({"choices": [], "usage": {"completion_tokens": written}})
                self.wfile.write(b"data: [DONE]\n\n")

        return Handler


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*words: Any, **options: Any) -> Server:
        made.append(Server(*words, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("urls")
    model = save_tiny_model(place / "model")
    text = 'measure { data = "builtin:pydoc"; tokens = 256; seq = 64 }\nlayers 1 drop\n'
    return applied(text, model, place)[1].folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, new_cache: Callable[[Path], Path]) -> None:
    new_cache(tmp_path / "cache")


def asked(*urls: str, **options: Any) -> AtUrls:
    return AtUrls((urls[0], urls[1]), **{"concurrency": (3,), "lengths": ((24, 8),), "pairs": 2, **options})


def test_both_servers_are_timed_by_turns(
    artifact: Path, server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    base, changed = server("base", 0.05), server("changed", 0.005)
    found = bench_artifact(artifact, asked(base.url, changed.url + "/v1"), options=RunOptions(cache_dir=tmp_path / "cache"))
    cells = {cell.metric: cell for cell in found.measured.cells}
    assert set(cells) == {"throughput", "ttft", "itl"}
    assert cells["throughput"].ratio > 1 > cells["itl"].ratio
    assert cells["itl"].base >= 0.05
    for each in (base, changed):
        assert each.keys == {"Bearer secret-key"}
        (probe, *warm), runs = each.asked[:4], each.asked[4:]
        assert probe["logit_bias"] == {str(EOS): 100}
        assert {job["max_tokens"] for job in warm} == {2}
        assert len(runs) == 2 * 3
        assert all(len(job["prompt"]) == 24 and job["ignore_eos"] and job["max_tokens"] == 8 for job in runs)
        prompts = [tuple(job["prompt"]) for job in each.asked[1:]]
        assert len(set(prompts)) == len(prompts)
    kept = read_record(artifact).unwrap().bench["vllm-served-url"]
    assert (kept["engine_version"], kept["machine"]["name"]) == ("0.32.0", "servers elsewhere")
    assert "in vllm 0.32.0, served on servers elsewhere" in (artifact / "README.md").read_text()
    assert "secret" not in (artifact / "lbdsl.json").read_text()


WRONG = {
    "two": "has 2 models",
    "short": "takes 40 tokens, and 64 are asked",
    "tokenizer": "has another tokenizer",
    "eos": "does not follow `ignore_eos`",
    "key": "refuses the key",
    "moved": "answers 302",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_server_that_cannot_be_timed_is_refused(
    wrong: str, artifact: Path, server: Callable[..., Server], tmp_path: Path
) -> None:
    base, changed = server("base"), server("changed", wrong=wrong)
    with pytest.raises(LbdslError, match=f"server of the artifact, {changed.url}, {WRONG[wrong]}") as problem:
        bench_artifact(
            artifact, asked(base.url, changed.url, lengths=((56, 8),)), options=RunOptions(cache_dir=tmp_path / "cache")
        )
    assert [d.code for d in problem.value.diagnostics] == ["LB487"]


@pytest.mark.parametrize(("wrong", "said"), [("later", "ended after 7 of 8 tokens"), ("breaks", "out of memory")])
def test_a_request_that_fails_later_ends_the_run(
    wrong: str, said: str, artifact: Path, server: Callable[..., Server], tmp_path: Path
) -> None:
    base, changed = server("base"), server("changed", wrong=wrong)
    with pytest.raises(LbdslError, match=said) as problem:
        bench_artifact(artifact, asked(base.url, changed.url), options=RunOptions(cache_dir=tmp_path / "cache"))
    assert [d.code for d in problem.value.diagnostics] == ["LB488"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "cannot be asked"),
        ("ftp://host", "is not one: ftp://host"),
        ("http://user:pass@host", "is not one: http://host"),
        ("http://host:8O00", "is not one"),
        ("http://[foo", "is not one"),
    ],
)
def test_an_address_without_a_server(url: str, said: str, artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(LbdslError, match=said) as problem:
        bench_artifact(artifact, asked(url, url), options=RunOptions(cache_dir=tmp_path / "cache"))
    assert "pass@" not in str(problem.value)


def test_a_key_with_a_line_end_is_taken_without_it_and_another_is_not_shown(
    artifact: Path, server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, other = server("base"), server("changed")
    options = RunOptions(cache_dir=tmp_path / "cache")
    monkeypatch.setenv("OPENAI_API_KEY", "secret\r\n")
    bench_artifact(artifact, asked(one.url, other.url), options=options)
    assert one.keys == {"Bearer secret"}
    first = {tuple(job["prompt"]) for job in one.asked}
    bench_artifact(artifact, asked(one.url, other.url), options=options)
    # No prompt is one that an earlier command asked, but for that which asks for `ignore_eos`.
    assert len(first & {tuple(job["prompt"]) for job in one.asked[len(first) :]}) <= 1
    monkeypatch.setenv("OPENAI_API_KEY", "sec\nret")
    with pytest.raises(LbdslError, match="is not a key: it has line ends") as problem:
        bench_artifact(artifact, asked(one.url, other.url), options=options)
    assert "sec" not in str(problem.value).replace("second", "")


def test_one_server_is_not_two(artifact: Path, server: Callable[..., Server], tmp_path: Path) -> None:
    one = server("one")
    with pytest.raises(LbdslError, match="has one model, `one`"):
        bench_artifact(artifact, asked(one.url, one.url), options=RunOptions(cache_dir=tmp_path / "cache"))


def test_options_that_start_an_engine_do_not_go_with_it(artifact: Path) -> None:
    from click.testing import CliRunner

    words = ["bench", str(artifact), "--engine", "vllm", "--url", "http://a", "http://b"]
    for more in ("--served", "--install"):
        done = CliRunner().invoke(cli, [*words, more])
        assert done.exit_code == 2
        assert "it starts no engine" in done.output
    done = CliRunner().invoke(cli, ["calibrate", "model", *words[2:]])
    assert "a profile is of offline runs" in done.output
