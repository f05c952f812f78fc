"""A server of the tests: a tiny model behind HTTP, as vLLM, SGLang and llama.cpp speak; it misbehaves on order.

It is written from what these servers document. Its numbers come from the model's own logits.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

from thack.config import ArchitectureSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.models.load import new_decoder
from thack.models.protocol import LanguageModel

TEXTS = ["def read(path): read the whole file and return its text", "class Path: a place in the file system"] * 3
LIMIT = 20  # ids that vLLM gives unless it was started with another number


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


def tiny_model(tokenizer: Tokenizer, seed: int = 0) -> LanguageModel:
    """With distributions that are neither flat nor certain."""
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, max_positions=64), tokenizer, seed=seed)
    with torch.no_grad():
        model.head().weight.mul_(12)
    return model.eval()


class World:
    """What the server serves, what is to go wrong, and what was asked."""

    def __init__(self, model: LanguageModel, dialect: str) -> None:
        self.model, self.dialect = model, dialect
        self.faults: deque[str] = deque()  # one for each request for log-probabilities, in turn
        self.processed = False
        self.floor = -np.inf  # what is less likely gets −9999
        self.has_tokenize = True
        self.shuffles = False  # later requests are answered first
        self.asked: Counter[str] = Counter()
        self.scored: Counter[tuple[int, ...]] = Counter()  # by the ids that were sent
        self.lock = threading.Lock()

    def rows(self, ids: list[int], first: int) -> np.ndarray:
        """log softmax [len(ids) − first, V]: what predicts ids[first:]."""
        cut = np.asarray(ids, np.int32)
        s = TokenSequence(example=0, prompt_id="", prompt_ids=cut[:first], response_ids=cut[first:])
        with self.lock, torch.inference_mode():
            logits = self.model(Batch.of([s], self.model.device))[:, : self.model.tokenizer.size]
        rows = torch.log_softmax(logits.double(), dim=1).numpy()
        return np.where(rows < self.floor, -9999.0, rows)

    def write(self, prompt: list[int], new: int, temperature: float, seed: int) -> tuple[list[int], np.ndarray, str]:
        """A response, its rows, and why it ended."""
        rng, ids, rows = np.random.default_rng(seed), list(prompt), []
        for _ in range(new):
            row = self.rows([*ids, 0], len(ids))[0]
            tempered = row / max(temperature, 1e-6)
            tempered = tempered - np.logaddexp.reduce(tempered)
            rows.append(tempered if self.processed else row)
            ids.append(int(rng.choice(len(row), p=np.exp(tempered))) if temperature else int(row.argmax()))
            if ids[-1] in self.model.tokenizer.ends.ids:
                return ids[len(prompt) :], np.stack(rows), "stop"
        return ids[len(prompt) :], np.stack(rows), "length"


def top(row: np.ndarray, k: int, fault: str) -> list[tuple[int, float]]:
    ids = np.argsort(-row, kind="stable")[: k - 1 if fault == "few" else k]
    values = [float(row[i]) for i in ids]
    if fault == "nan":
        values[1] = float("nan")
    return list(zip(ids.tolist(), values, strict=True))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        owner = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp"}.get(self.world.dialect, "somebody")
        self.give({"data": [{"id": "tiny", "owned_by": owner}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.world.lock:
            self.world.asked[self.path] += 1
            number = self.world.asked[self.path]
        if self.path == "/tokenize":
            self.tokenize(body)
            return
        with self.world.lock:
            fault = self.world.faults.popleft() if self.world.faults else ""
        if self.world.shuffles:
            time.sleep(0.005 * (-number % 4))
        if fault in ("429", "500"):
            self.give({"error": {"message": "busy"}}, int(fault), {"Retry-After": "0"} if fault == "429" else {})
            return
        path = {"/v1/completions": self.completions, "/generate": self.sglang, "/completion": self.llama_cpp}
        answer = path[self.path](body, fault)
        if answer is not None:
            self.give(answer, fault=fault)

    def tokenize(self, body: Mapping[str, Any]) -> None:
        if not self.world.has_tokenize:
            self.give({"error": "no such path"}, 404)
            return
        text = body["content" if self.world.dialect == "llama.cpp" else "prompt"]
        self.give({"tokens": self.world.model.tokenizer.encode(text).tolist()})

    def completions(self, body: Mapping[str, Any], fault: str) -> dict[str, Any] | None:
        """vLLM, and OpenAI style where the dialect is another."""
        ids = body["prompt"]
        if isinstance(ids, str):
            return {"choices": [{}], "usage": {"prompt_tokens": len(self.world.model.tokenizer.encode(ids))}}
        k: int = body.get("prompt_logprobs", body.get("logprobs", 0))
        if k > LIMIT:
            said = f"Requested sample logprobs of {k}, which is greater than max allowed: {LIMIT}"
            self.give({"error": {"message": said}}, 400)
            return None
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        if self.world.dialect == "vllm":
            choice["prompt_token_ids"] = [7, *ids[1:]] if fault == "retokenised" else ids
        usage = {"prompt_tokens": len(ids) + (fault == "retokenised")}
        if "prompt_logprobs" in body:
            with self.world.lock:
                self.world.scored[tuple(ids)] += 1
            rows = self.world.rows(ids, 1)
            found: list[Any] = [None]
            for row, token in zip(rows, ids[1:], strict=True):
                pairs = dict(top(row, k, fault))
                pairs.setdefault(token, float(row[token]))
                found.append({str(i): {"logprob": value, "rank": 1} for i, value in pairs.items()})
            return {"choices": [choice | {"prompt_logprobs": found}], "usage": usage}
        tokens, rows, reason = self.world.write(ids, body["max_tokens"], body["temperature"], body["seed"])
        name = "token_id:%d" if body.get("return_tokens_as_token_ids") and fault != "texts" else "word%d"
        tops = []
        for row, token in zip(rows, tokens, strict=True):
            pairs = dict(top(row, k, fault))
            pairs.setdefault(token, float(row[token]))
            tops.append({name % i: value for i, value in pairs.items()})
        values = [float(row[token]) for row, token in zip(rows, tokens, strict=True)]
        logprobs = {"tokens": [name % i for i in tokens], "token_logprobs": values, "top_logprobs": tops}
        return {"choices": [choice | {"logprobs": logprobs, "finish_reason": reason}], "usage": usage}

    def sglang(self, body: Mapping[str, Any], fault: str) -> dict[str, Any]:
        ids, k, start = body["input_ids"], body["top_logprobs_num"], body["logprob_start_len"]
        sampling = body["sampling_params"]
        facts: dict[str, Any] = {"prompt_tokens": len(ids) + (fault == "retokenised")}
        if start >= 0:
            with self.world.lock:
                self.world.scored[tuple(ids)] += 1
            rows = self.world.rows(ids, start + 1)
            given = [9, *ids[start + 1 :]] if fault == "retokenised" else ids[start:]
            own = [None, *(float(row[i]) for row, i in zip(rows, ids[start + 1 :], strict=True))]
            facts["input_token_logprobs"] = [[value, i, None] for value, i in zip(own, given, strict=True)]
            tops = [[[value, i, None] for i, value in top(row, k, fault)] for row in rows]
            facts["input_top_logprobs"] = [None, *tops]
        tokens, rows, reason = self.world.write(
            ids, sampling["max_new_tokens"], sampling["temperature"], sampling["sampling_seed"]
        )
        facts["output_token_logprobs"] = [[float(row[i]), i, None] for row, i in zip(rows, tokens, strict=True)]
        facts["output_top_logprobs"] = [[[value, i, None] for i, value in top(row, k, fault)] for row in rows]
        return {"meta_info": facts | {"finish_reason": {"type": reason}}, "output_ids": tokens}

    def llama_cpp(self, body: Mapping[str, Any], fault: str) -> dict[str, Any]:
        ids = body["prompt"]
        tokens, rows, reason = self.world.write(ids, body["n_predict"], body["temperature"], body["seed"])
        found = [
            {
                "id": token,
                "token": "x",
                "logprob": float(row[token]),
                "top_logprobs": [{"id": i, "token": "x", "logprob": v} for i, v in top(row, body["n_probs"], fault)],
            }
            for row, token in zip(rows, tokens, strict=True)
        ]
        stopped = {"stop": "eos", "length": "limit"}[reason]
        evaluated = len(ids) + (fault == "retokenised")
        return {"completion_probabilities": found, "stop_type": stopped, "tokens_evaluated": evaluated}

    def give(
        self, content: object, status: int = 200, headers: Mapping[str, str] | None = None, fault: str = ""
    ) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(1 << 40 if fault == "endless" else len(data)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if fault == "slow":
            for place in range(0, len(data), 400):
                self.wfile.write(data[place : place + 400])
                self.wfile.flush()
                time.sleep(0.001)
            return
        if fault == "endless":
            with suppress(ConnectionError):
                while True:
                    self.wfile.write(b" " * 65536)
        if fault == "hang":
            time.sleep(0.6)
            self.close_connection = True
            return
        self.wfile.write(data)


@contextmanager
def serving(world: World) -> Iterator[str]:
    """The address of a server that runs while the context is open."""
    handler = type("BoundHandler", (Handler,), {"world": world})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
