"""`bench --url`: the base and the artifact behind servers that run already, anywhere: OpenAI's API as vLLM has it."""

from __future__ import annotations

import json
import os
import random
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lbdsl.artifact.record import Record
from lbdsl.bench.cells import Cell, Measured
from lbdsl.bench.contexts import request_cells
from lbdsl.core.diagnostic import LbdslError, fail
from lbdsl.session.model import OpenModel

KEY = "OPENAI_API_KEY"
"""The environment variable with the key that servers may want."""
TIMEOUT = 600.0
"""Seconds without a word after which a server is taken to hang."""
TEXT = "The quick brown fox, 12 times; über-naïve?\n\tdef f(x): return x ** 2"


class _StaysThere(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the key would go along."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_StaysThere)


@dataclass(frozen=True)
class AtUrls:
    """`concurrency` requests at once, of `lengths`: (tokens of the prompt, tokens written), in `pairs` runs of both models
    by turns, to servers at `urls`: of the base, and of the artifact. Timed are tokens written a second, over the whole run,
    and the median seconds to the first token and between tokens."""

    urls: tuple[str, str]
    concurrency: Sequence[int] = (50,)
    lengths: Sequence[tuple[int, int]] = ((1024, 256),)
    pairs: int = 5

    def measure(self, base: OpenModel, folder: Path, record: Record, stack: ExitStack) -> tuple[Measured, Iterator[Cell]]:
        """Raises LB487 for a server that cannot be reached, does not have the model's tokenizer, is too short, or ends
        requests before they are as long as asked, LB488 where a request fails later."""
        longest = max(read + written for read, written in self.lengths)
        servers = [_Server(url, name) for url, name in zip(self.urls, ("base", "artifact"), strict=True)]
        for server in servers:
            server.check(base.tokenizer, longest)
            base.progress.say(f"{server.what}: `{server.model}` at {server.url}, vLLM {server.version}")
        if len({(server.url, server.model) for server in servers}) == 1:
            raise fail("LB487", f"{servers[0].url} has one model, `{servers[0].model}`", help="name a server for each")
        version = " and ".join(dict.fromkeys(server.version for server in servers))
        unknown = {"name": "servers elsewhere", "device": None, "cores": None, "torch": None, "dtype": None}
        return Measured("vllm", version, None, None, served=True, machine=unknown), self._cells(servers, base)

    def _cells(self, servers: Sequence[_Server], base: OpenModel) -> Iterator[Cell]:
        # Other prompts than those of an earlier command, which a cache of prefixes may hold.
        seeds = count(random.SystemRandom().getrandbits(48))
        # Any model's own tokens; those that end a text are not asked for.
        vocab = len(base.tokenizer) - len(base.tokenizer.all_special_ids)

        def run(server: _Server, requests: int, read: int, written: int) -> dict[str, float]:
            return server.run(requests, read, written, vocab, next(seeds))

        with base.progress.stage("timing both servers by turns") as report:
            yield from request_cells([partial(run, server) for server in servers], self, report)


class _Server:
    """A server of one model. `what` is what it serves, for messages."""

    def __init__(self, url: str, what: str):
        try:
            address = urlsplit(url)
            port = address.port
        except ValueError:
            address, port = urlsplit(""), None
        plain = f"{address.scheme}://{address.hostname}" + (f":{port}" if port else "")
        if address.scheme not in ("http", "https") or not address.hostname or address.username or address.query:
            help = f"as in http://localhost:8000; a key comes from the environment, ${KEY}"
            raise fail("LB487", f"the address of the server of the {what} is not one: {plain}", help=help)
        self.url, self.what = url.rstrip("/").removesuffix("/v1"), what
        self.model = self.version = ""

    def check(self, tokenizer: Any, longest: int) -> None:
        """Ask for its model, and see that it is one that can be timed."""
        said = self._json("/v1/models").get("data")
        listed = [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []
        if len(listed) != 1:
            names = ", ".join(str(each.get("id")) for each in listed) or "none"
            raise self._unfit(f"has {len(listed)} models ({names})", "serve one model at each address")
        self.model = str(listed[0].get("id"))
        self.version = str(self._json("/version").get("version", "of no version"))
        most = listed[0].get("max_model_len")
        if isinstance(most, int) and most < longest:
            raise self._unfit(f"takes {most} tokens, and {longest} are asked", "name shorter --lengths, or serve it longer")
        asked = {"model": self.model, "prompt": TEXT, "add_special_tokens": False}
        theirs = self._json("/tokenize", asked).get("tokens")
        if theirs != tokenizer(TEXT, add_special_tokens=False)["input_ids"]:
            raise self._unfit("has another tokenizer than the base of the artifact", "is it the right model?")
        # The token that ends a text, if it may: a server that is not told so ends here.
        ends = tokenizer.eos_token_id
        bias = {} if ends is None else {"logit_bias": {str(ends): 100}}
        if self._complete({**self._wanted([tokenizer("a")["input_ids"][0]], 4), **bias})[0] != 4:
            raise self._unfit("does not follow `ignore_eos`, so that requests would differ in length", "serve it with vLLM")

    def run(self, requests: int, read: int, written: int, vocab: int, seed: int) -> dict[str, float]:
        """Figures of so many requests at once, of random tokens that no cache of prefixes has."""
        draw = random.Random(seed)
        jobs = [self._wanted([draw.randrange(vocab) for _ in range(read)], written) for _ in range(requests)]
        started = time.perf_counter()
        with ThreadPoolExecutor(requests) as pool:
            found = list(pool.map(self._complete, jobs))
        seconds = time.perf_counter() - started
        if short := [tokens for tokens, _ in found if tokens != written]:
            raise self._failed(f"{len(short)} of {requests} requests ended after {short[0]} of {written} tokens")
        times = [times for _, times in found]
        figures = {"throughput": requests * written / seconds, "ttft": statistics.median(each[0] for each in times)}
        between = [(each[-1] - each[0]) / (written - 1) for each in times if written > 1]
        return figures | ({"itl": statistics.median(between)} if between else {})

    def _wanted(self, prompt: list[int], written: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": written,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def _complete(self, job: Mapping[str, Any]) -> tuple[int, list[float]]:
        """How many tokens were written, and the seconds after which pieces of them came."""
        started, times, tokens = time.perf_counter(), [], 0
        try:
            with self._open("/v1/completions", job) as stream:
                for line in stream:
                    text = line.decode(errors="replace").strip()
                    if not text.startswith("data:") or text == "data: [DONE]":
                        continue
                    piece = json.loads(text.removeprefix("data:"))
                    if not isinstance(piece, dict):
                        raise self._failed("it streams what is no completion")
                    if "error" in piece:
                        raise self._failed(str(piece["error"])[:300])
                    if any(choice.get("text") or choice.get("finish_reason") for choice in piece.get("choices") or ()):
                        times.append(time.perf_counter() - started)
                    tokens = (piece.get("usage") or {}).get("completion_tokens", tokens)
        except (OSError, ValueError, HTTPException) as problem:
            raise self._failed(str(problem) or type(problem).__name__) from None
        return tokens, times or [time.perf_counter() - started]

    def _json(self, path: str, job: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            with self._open(path, job) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as problem:
            if problem.code in (401, 403):
                raise self._unfit(
                    f"refuses the key ({problem.code})", f"its key comes from the environment, ${KEY}"
                ) from None
            raise self._unfit(f"answers {problem.code} to {path}", "is it a server of vLLM?") from None
        except (OSError, ValueError, HTTPException) as problem:
            reason = getattr(problem, "reason", problem) or type(problem).__name__
            raise self._unfit(f"cannot be asked ({reason})", "is it running, and reachable from here?") from None
        return found if isinstance(found, dict) else {}

    def _open(self, path: str, job: Mapping[str, Any] | None) -> Any:
        key = os.environ.get(KEY, "").strip()
        if not key.isprintable() or not key.isascii():
            raise fail(
                "LB487",
                f"${KEY} is not a key: it has line ends or other characters that cannot be sent",
                help="set it again",
            )
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = None if job is None else json.dumps(job).encode()
        return _OPENER.open(urllib.request.Request(self.url + path, data, headers), timeout=TIMEOUT)

    def _unfit(self, why: str, help: str) -> LbdslError:
        return fail("LB487", f"the server of the {self.what}, {self.url}, {why}", help=help)

    def _failed(self, why: str) -> LbdslError:
        return fail("LB488", f"the server of the {self.what}, {self.url}, failed: {why}", help="its own log says more")
