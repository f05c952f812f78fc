"""Rows of other tools come in checked and aligned, and go out plain."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from thack.cache import Cache, export_cache, import_cache, inspect
from thack.cache.capture.job import capture
from thack.cache.exchange.importing import ImportSettings
from thack.config import CacheSettings
from thack.data.eos import Ends
from thack.errors import DataError, ThackError, UsageError
from thack.targets.types import DenseTarget, TopKTarget

from .conftest import VOCAB, FakeTeacher, make_sequences

K = 4


def line(seed: int, *, prompt: int = 3, response: int = 4) -> dict[str, Any]:
    """One line as vLLM writes it: k entries, or k + 1 where the actual token is not among the k."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCAB, prompt + response)
    rows: list[Any] = [None]
    for token in ids[1:]:
        log_p = np.log(rng.dirichlet(np.full(VOCAB, 0.3)))
        order = np.argsort(-log_p)
        kept = list(order[:K]) + ([token] if token not in order[:K] else [])
        ranks = {int(v): int(np.where(order == v)[0][0]) + 1 for v in kept}
        rows.append({str(v): {"logprob": float(log_p[v]), "rank": ranks[int(v)]} for v in kept})
    return {
        "id": f"line{seed}",
        "prompt_token_ids": ids.tolist(),
        "prompt_logprobs": rows,
        "prompt_length": prompt,
    }


def settings_for(source: Path, out: Path, **changes: Any) -> ImportSettings:
    return ImportSettings(source=source, out=out, vocab_size=VOCAB, tokenizer="sha256:t", **changes)


def write_jsonl(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return path


def test_prompt_logprobs_come_in_aligned(tmp_path: Path) -> None:
    lines = [line(seed) for seed in range(5)]
    source = write_jsonl(tmp_path / "rows.jsonl", lines)
    cache = Cache.open(import_cache(settings_for(source, tmp_path / "cache", shard_tokens=8)))
    assert cache.meta.k == K and cache.meta.num_shards > 1
    sequences, target = cache.targets([2])
    assert isinstance(target, TopKTarget) and target.log_tail_N is not None
    assert sequences[0].prompt_id == "line2"
    assert sequences[0].response_ids.tolist() == lines[2]["prompt_token_ids"][3:]
    for n in range(len(target)):
        given = lines[2]["prompt_logprobs"][3 + n]
        best = sorted(given, key=lambda v: -given[v]["logprob"])[:K]
        assert sorted(map(int, best)) == target.ids_NK[n].tolist()
        want = [given[str(v)]["logprob"] for v in target.ids_NK[n].tolist()]
        np.testing.assert_allclose(target.log_probs_NK[n], want, atol=0.05)
        rest = 1 - sum(np.exp(want))
        np.testing.assert_allclose(target.log_tail_N[n], np.log(rest), atol=2e-3)
    said = inspect(tmp_path / "cache")
    assert not said.exact_tail and "approximate" in said.losses["forward_kl"]


def test_without_a_tail_every_loss_is_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [line(1)])
    directory = import_cache(settings_for(source, tmp_path / "cache", estimate_tail=False))
    _, target = Cache.open(directory).targets([0])
    assert isinstance(target, TopKTarget) and target.log_tail_N is None
    assert all(said.startswith("refused") for said in inspect(directory).losses.values())


def shifted(item: dict[str, Any]) -> None:
    item["prompt_logprobs"] = [None, *item["prompt_logprobs"][2:], item["prompt_logprobs"][1]]


def short(item: dict[str, Any]) -> None:
    item["prompt_logprobs"].pop()


def nan(item: dict[str, Any]) -> None:
    next(iter(item["prompt_logprobs"][5].values()))["logprob"] = float("nan")


def positive(item: dict[str, Any]) -> None:
    next(iter(item["prompt_logprobs"][-1].values()))["logprob"] = 0.5


def beyond(item: dict[str, Any]) -> None:
    item["prompt_logprobs"][4]["999"] = {"logprob": -0.01}


def too_much_mass(item: dict[str, Any]) -> None:
    for entry in item["prompt_logprobs"][3].values():
        entry["logprob"] = -0.5


def few(item: dict[str, Any]) -> None:
    row = item["prompt_logprobs"][4]
    token = str(item["prompt_token_ids"][4])
    item["prompt_logprobs"][4] = {token: row[token]}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shifted, "its own log-probabilities do not have"),
        (short, "entries of prompt_logprobs for"),
        (nan, "not a log-probability"),
        (positive, "not a log-probability"),
        (beyond, "outside the vocabulary"),
        (too_much_mass, "sum to"),
        (few, "1 entries, expected 4"),
        (lambda item: item.pop("prompt_length"), "prompt_length"),
        (lambda item: item.update(prompt_length=7), "must leave"),
        (lambda item: item.update(prompt_length=0), "must leave"),
        (lambda item: item["prompt_logprobs"].__setitem__(4, None), "has no log-probabilities"),
        (lambda item: item["prompt_token_ids"].__setitem__(0, -3), "-3 is not a token id"),
        (lambda item: item["prompt_token_ids"].__setitem__(0, (1 << 32) + 5), "4294967301 is not a token id"),
        (lambda item: item["prompt_token_ids"].__setitem__(0, 2.5), "2.5 is not a token id"),
        (lambda item: item["prompt_token_ids"].__setitem__(0, 999), "token 999 is outside the vocabulary"),
        (lambda item: item["prompt_token_ids"].__setitem__(0, "a"), "not a row of prompt_logprobs"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], said: str
) -> None:
    bad = line(2)
    damage(bad)
    source = write_jsonl(tmp_path / "rows.jsonl", [line(1), bad])
    with pytest.raises(DataError, match=said) as caught:
        import_cache(settings_for(source, tmp_path / "cache", top_k=K))
    assert "rows.jsonl" in str(caught.value) and "2" in str(caught.value)
    assert not list((tmp_path / "cache" / "shards").iterdir())


def answer(style: str) -> dict[str, Any]:
    """What a server says to a request for logprobs, with ids for tokens; the third token is beyond the top."""
    top = [{5: -0.3, 7: -1.9}, {1: -0.1, 2: -2.9}, {3: -0.2, 4: -2.2}]
    chosen = [(5, -0.3), (2, -2.9), (9, -6.0)]
    if style == "chat":
        content = [
            {
                "token": f"token_id:{token}",
                "logprob": value,
                "top_logprobs": [{"token": f"token_id:{v}", "logprob": p} for v, p in row.items()],
            }
            for row, (token, value) in zip(top, chosen, strict=True)
        ]
        return {"id": "a", "prompt_token_ids": [1, 2], "choices": [{"logprobs": {"content": content}}]}
    logprobs = {
        "tokens": [f"token_id:{token}" for token, _ in chosen],
        "token_logprobs": [value for _, value in chosen],
        "top_logprobs": [
            {f"token_id:{v}": p for v, p in (row | {token: value}).items()}
            for row, (token, value) in zip(top, chosen, strict=True)
        ],
    }
    choice = {"prompt_token_ids": [1, 2], "logprobs": logprobs}
    return {"id": "a", "choices": [choice, choice]}


@pytest.mark.parametrize(("style", "count"), [("chat", 1), ("completion", 2)])
def test_answers_of_servers_come_in(tmp_path: Path, style: str, count: int) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [answer(style)])
    cache = Cache.open(import_cache(settings_for(source, tmp_path / "cache")))
    assert len(cache) == count and cache.meta.k == 2
    (s,), target = cache.targets([count - 1])
    assert s.prompt_ids.tolist() == [1, 2] and s.response_ids.tolist() == [5, 2, 9] and s.sample == count - 1
    assert isinstance(target, TopKTarget) and target.ids_NK.tolist() == [[5, 7], [1, 2], [3, 4]]
    np.testing.assert_allclose(target.log_probs_NK, [[-0.3, -1.9], [-0.1, -2.9], [-0.2, -2.2]], atol=0.06)


def test_an_answer_s_prompts_are_named_by_their_ids_and_not_by_the_request(tmp_path: Path) -> None:
    """One request of two prompts, and another of the first; `prompt_id` is a name of one's own."""
    other, own = answer("completion"), answer("completion")
    other["choices"] *= 2
    other["choices"][2:] = [choice | {"prompt_token_ids": [3, 4]} for choice in other["choices"][2:]]
    again = answer("chat") | {"id": "cmpl-2"}
    own |= {"choices": own["choices"][:1], "prompt_id": 0}
    source = write_jsonl(tmp_path / "rows.jsonl", [other, again, own])
    sequences, _ = (cache := Cache.open(import_cache(settings_for(source, tmp_path / "cache")))).targets(range(6))
    names = [s.prompt_id for s in sequences]
    assert len(cache) == 6 and names[0] == names[1] == names[4] and names[2] == names[3] and len(set(names)) == 3
    assert names[5] == "0" and not {"a", "cmpl-2"} & set(names)
    assert [s.sample for s in sequences] == [0, 1, 0, 1, 0, 0]
    assert [s.example for s in sequences] == list(range(6))


@pytest.mark.parametrize("key", ["id", "prompt_id"])
def test_one_name_for_two_prompts_is_refused(tmp_path: Path, key: str) -> None:
    first, second = line(1), line(2)
    first["id"] = second["id"] = None
    first[key] = second[key] = 7
    source = write_jsonl(tmp_path / "rows.jsonl", [first, first, second])
    with pytest.raises(DataError, match=r"rows\.jsonl: line 3: the id '7' is another prompt's: give each its own"):
        import_cache(settings_for(source, tmp_path / "cache", top_k=K))
    for wrong in (True, 1.5, "\ud800"):
        with pytest.raises(DataError, match=rf"`{key}` is n"):
            import_cache(settings_for(write_jsonl(source, [line(1) | {key: wrong}]), tmp_path / "cache", top_k=K))
    del second[key]
    source = write_jsonl(tmp_path / "rows.jsonl", [first, first, second])
    cache = Cache.open(import_cache(settings_for(source, tmp_path / "cache", top_k=K)))
    assert [cache.sequences(n).prompt_id == "7" for n in range(3)] == [True, True, False]


def test_prompt_logprobs_inside_an_answer_come_in(tmp_path: Path) -> None:
    inner = line(4)
    outer = {"id": inner["id"], "prompt_length": inner.pop("prompt_length"), "choices": [inner]}
    source = write_jsonl(tmp_path / "rows.jsonl", [outer])
    cache = Cache.open(import_cache(settings_for(source, tmp_path / "cache")))
    assert cache.sequences(0).response_ids.tolist() == inner["prompt_token_ids"][3:]


# Answers as vLLM 0.11 writes them: every field that was not asked for is there, as null.
COMPLETION = """{"id":"cmpl-7f3b","object":"text_completion","created":1764500000,"model":"big","choices":[{"index":0,
"text":" a b","logprobs":{"text_offset":[0,2],"token_logprobs":[-0.5,-1.6],"tokens":["token_id:5","token_id:7"],
"top_logprobs":[{"token_id:5":-0.5,"token_id:7":-1.5},{"token_id:6":-0.4,"token_id:7":-1.6}]},"finish_reason":"length",
"stop_reason":null,"token_ids":[5,7],"prompt_logprobs":null,"prompt_token_ids":[1,2]}],"service_tier":null,
"system_fingerprint":null,"usage":{"prompt_tokens":2,"total_tokens":4,"completion_tokens":2,
"prompt_tokens_details":null},"kv_transfer_params":null}"""
CHAT = """{"id":"chatcmpl-9c1d","object":"chat.completion","created":1764500000,"model":"big","choices":[{"index":0,
"message":{"role":"assistant","content":" a b","refusal":null,"annotations":null,"audio":null,"function_call":null,
"tool_calls":[],"reasoning_content":null},"logprobs":{"content":[{"token":"token_id:5","logprob":-0.5,"bytes":[32,97],
"top_logprobs":[{"token":"token_id:5","logprob":-0.5,"bytes":[32,97]},{"token":"token_id:7","logprob":-1.5,
"bytes":[32,98]}]},{"token":"token_id:7","logprob":-1.6,"bytes":[32,98],"top_logprobs":[{"token":"token_id:6",
"logprob":-0.4,"bytes":[32,99]},{"token":"token_id:7","logprob":-1.6,"bytes":[32,98]}]}]},"finish_reason":"length",
"stop_reason":null,"token_ids":[5,7]}],"service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":2,
"total_tokens":4,"completion_tokens":2,"prompt_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":[1,2],
"kv_transfer_params":null}"""
# What a request for the log-probabilities of two prompts gives, with the length of each prompt added.
SCORED = """{"id":"cmpl-51aa","object":"text_completion","created":1764500000,"model":"big","choices":[{"index":0,
"text":"!","logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,"prompt_logprobs":[null,
{"2":{"logprob":-1.0,"rank":1,"decoded_token":" x"},"8":{"logprob":-1.5,"rank":2,"decoded_token":" y"}},
{"5":{"logprob":-0.5,"rank":1,"decoded_token":" a"},"7":{"logprob":-1.5,"rank":2,"decoded_token":" b"}},
{"7":{"logprob":-1.6,"rank":2,"decoded_token":" b"},"6":{"logprob":-0.4,"rank":1,"decoded_token":" c"}}],
"prompt_token_ids":[1,2,5,7]},{"index":1,"text":"!","logprobs":null,"finish_reason":"length","stop_reason":null,
"token_ids":null,"prompt_logprobs":[null,{"9":{"logprob":-0.1,"rank":1,"decoded_token":" d"},
"4":{"logprob":-3.0,"rank":2,"decoded_token":" e"}}],"prompt_token_ids":[3,9],"prompt_length":1}],"service_tier":null,
"system_fingerprint":null,"usage":{"prompt_tokens":6,"total_tokens":8,"completion_tokens":2,
"prompt_tokens_details":null},"kv_transfer_params":null,"prompt_length":2}"""


@pytest.mark.parametrize("given", [COMPLETION, CHAT, SCORED])
def test_answers_of_vllm_come_in_as_it_writes_them(tmp_path: Path, given: str) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [json.loads(given)])
    cache = Cache.open(import_cache(settings_for(source, tmp_path / "cache")))
    (s,), target = cache.targets([0])
    assert s.prompt_ids.tolist() == [1, 2] and s.response_ids.tolist() == [5, 7]
    assert isinstance(target, TopKTarget) and target.ids_NK.tolist() == [[5, 7], [6, 7]]
    np.testing.assert_allclose(target.log_probs_NK, [[-0.5, -1.5], [-0.4, -1.6]], atol=0.01)


def test_every_prompt_of_a_request_is_a_sequence(tmp_path: Path) -> None:
    """Each with the ids of its own choice, or those of the line where its choice has none."""
    source = write_jsonl(tmp_path / "rows.jsonl", [json.loads(SCORED)])
    cache = Cache.open(import_cache(settings_for(source, tmp_path / "cache")))
    found = [(s.prompt_ids.tolist(), s.response_ids.tolist()) for s in map(cache.sequences, range(len(cache)))]
    assert found == [([1, 2], [5, 7]), ([3], [9])]
    own = json.loads(SCORED)
    own |= {"prompt_token_ids": [1, 2, 5, 7], "choices": own["choices"][:1]}
    own["choices"][0]["prompt_token_ids"] = None
    source = write_jsonl(tmp_path / "own.jsonl", [own])
    assert Cache.open(import_cache(settings_for(source, tmp_path / "own"))).sequences(0).response_ids.tolist() == [5, 7]
    del own["choices"][0]["prompt_logprobs"]
    own["choices"].append({"prompt_logprobs": [None, {"1": -0.5}]})
    with pytest.raises(DataError, match=r"own\.jsonl:1: not a row.*'prompt_logprobs' is missing"):
        import_cache(settings_for(write_jsonl(source, [own]), tmp_path / "third"))


def test_a_choice_that_does_not_fit_is_named(tmp_path: Path) -> None:
    given = json.loads(SCORED)
    given["choices"][1]["prompt_length"] = 2
    source = write_jsonl(tmp_path / "rows.jsonl", [given])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: choice 1: prompt_length is 2: must leave"):
        import_cache(settings_for(source, tmp_path / "cache"))


def test_the_end_of_what_a_server_wrote_behind_a_response_is_not_the_response_s(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [json.loads(SCORED)])
    cache = Cache.open(import_cache(settings_for(source, tmp_path / "cache", ends=Ends(eos=0), complete_ends=True)))
    assert cache.sequences(0).response_ids.tolist() == [5, 7]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("token_id:5", " the", "is a text, not an id"),
        ('"logprob": -2.9}]', '"logprob": -1.0}]', "contradicts its top_logprobs"),
        ('"prompt_token_ids": [1, 2], ', "", "return_token_ids"),
        ('{"logprobs": {"content"', '{"logprobs": null, "x": {"content"', "has no logprobs"),
        ('"top_logprobs": [{"token": "token_id:5", "logprob": -0.3}', '"top_logprobs": [0', "not a row"),
    ],
)
def test_answers_that_do_not_fit_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = json.dumps(answer("chat"))
    assert old in text
    source = tmp_path / "rows.jsonl"
    source.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=said):
        import_cache(settings_for(source, tmp_path / "cache"))


def arrays(rows: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    ids = np.stack([np.sort(rng.choice(VOCAB, K, replace=False)) for _ in range(rows)])
    log_p = np.log(rng.dirichlet(np.ones(K + 1), rows)[:, :K]).astype(np.float32)
    return {
        "ids": ids.astype(np.int32),
        "logprobs": log_p,
        "response_tokens": rng.integers(0, VOCAB, rows).astype(np.int32),
        "response_starts": np.asarray([0, 2, rows]),
        "prompt_tokens": np.asarray([1, 2, 3], dtype=np.int32),
        "prompt_starts": np.asarray([0, 1, 3]),
    }


def test_plain_safetensors_and_parquet_give_the_same_cache(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    given = arrays()
    save_file(given, tmp_path / "rows.safetensors")
    table = {"prompt_ids": [[1], [2, 3]], "response_ids": [], "ids": [], "logprobs": []}
    for first, last in ((0, 2), (2, 6)):
        table["response_ids"].append(given["response_tokens"][first:last].tolist())
        table["ids"].append(given["ids"][first:last].tolist())
        table["logprobs"].append(given["logprobs"][first:last].tolist())
    parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    caches = [
        Cache.open(import_cache(settings_for(tmp_path / f"rows.{kind}", tmp_path / kind)))
        for kind in ("safetensors", "parquet")
    ]
    (_, a), (_, b) = (cache.targets([1, 0]) for cache in caches)
    assert isinstance(a, TopKTarget) and isinstance(b, TopKTarget)
    assert torch.equal(a.ids_NK, b.ids_NK) and torch.equal(a.log_probs_NK, b.log_probs_NK)
    np.testing.assert_array_equal(a.ids_NK[:4], given["ids"][2:])


@pytest.mark.parametrize("name", ["ids", "logprobs", "response_starts", "prompt_starts", "response_tokens"])
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    given = arrays()
    given[name] = given[name][:-1]
    save_file(given, tmp_path / "rows.safetensors")
    with pytest.raises(DataError):
        import_cache(settings_for(tmp_path / "rows.safetensors", tmp_path / "cache"))


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [line(1)])
    source.write_bytes(source.read_bytes() + b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: not UTF-8 \(byte 15\)"):
        import_cache(settings_for(source, tmp_path / "cache", top_k=K))


def test_unknown_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b")
    for name in ("rows.csv", "nowhere.jsonl"):
        with pytest.raises(ThackError):
            import_cache(settings_for(tmp_path / name, tmp_path / "cache"))


def test_export_is_what_import_and_stock_readers_take(
    settings: CacheSettings, teacher: FakeTeacher, tmp_path: Path
) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(12))
    paths = export_cache(directory, tmp_path / "plain")
    cache = Cache.open(directory)
    assert len(paths) == cache.meta.num_shards
    first = load_file(paths[0])
    _, target = cache.targets(cache.plan.shard(0))
    assert isinstance(target, DenseTarget)
    np.testing.assert_array_equal(first["log_probs"], target.log_probs_NV)
    with pytest.raises(UsageError, match="not empty"):
        export_cache(directory, tmp_path / "plain")


def test_a_stopped_export_leaves_nothing_and_runs_again(
    settings: CacheSettings, teacher: FakeTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thack.cache.exchange import exporting as exchange

    cache = capture(replace(settings, shard_tokens=40), teacher=teacher, sequences=make_sequences(12))
    real, left = exchange._tensors, [1]

    def stopped(*arguments: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setattr(exchange, "_tensors", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_cache(cache, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    monkeypatch.undo()
    assert len(export_cache(cache, tmp_path / "plain")) > 1
    (tmp_path / "f").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        export_cache(cache, tmp_path / "f")


def test_the_realised_log_probability_is_kept_of_tokens_beyond_the_top(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [answer("completion")])
    _, target = Cache.open(import_cache(settings_for(source, tmp_path / "cache"))).targets([0])
    assert target.realised_logprob_N is not None
    np.testing.assert_allclose(target.realised_logprob_N, [-0.3, -2.9, -6.0], atol=2.5e-4)
