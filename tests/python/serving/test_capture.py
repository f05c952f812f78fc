"""A capture from a server against the direct capture of the same model, with everything going wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.conftest import Make
from serving.server import World, serving, tiny_model
from thack.cache import Cache, verify
from thack.cache.capture.job import capture
from thack.cache.served.job import capture_served
from thack.checks import check_capture
from thack.config import CacheSettings, SamplingSettings
from thack.data.sequence import TokenSequence
from thack.errors import DataError, MismatchError, ServerError, ThackError, UsageError
from thack.models.protocol import LanguageModel
from thack.serving.client import check_address
from thack.targets.types import TopKTarget

SCORING = ("vllm", "sglang")
ALL = ("vllm", "sglang", "llama.cpp", "openai")


def read(path: Path) -> tuple[list[TokenSequence], TopKTarget]:
    cache = Cache.open(path)
    sequences, target = cache.targets(range(len(cache)))
    assert isinstance(target, TopKTarget) and target.log_tail_N is not None
    assert verify(path, full=True).ok
    return sequences, target


def check_equal(found: Path, wanted: Path, unseen: float = 0.0) -> None:
    """The same texts and, up to the rounding of a record and a mass of `unseen`, the same numbers."""
    (sequences, target), (expected, exact) = read(found), read(wanted)
    for one, other in zip(sequences, expected, strict=True):
        assert one.prompt_id == other.prompt_id and one.sample == other.sample
        np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)
        np.testing.assert_array_equal(one.response_ids, other.response_ids)
    torch.testing.assert_close(target.ids_NK, exact.ids_NK, rtol=0, atol=0)
    torch.testing.assert_close(target.log_probs_NK, exact.log_probs_NK, rtol=0, atol=0.05)
    assert target.log_tail_N is not None and exact.log_tail_N is not None
    torch.testing.assert_close(target.log_tail_N, exact.log_tail_N, rtol=0, atol=2e-3 + unseen)
    assert target.realised_logprob_N is not None and exact.realised_logprob_N is not None
    torch.testing.assert_close(target.realised_logprob_N, exact.realised_logprob_N, rtol=0, atol=6e-4 + unseen)


def direct(settings: CacheSettings, teacher: LanguageModel, out: Path, responses: Path | None = None) -> Path:
    """The capture by the model itself; of the responses of another cache, if one is given."""
    sequences = None if responses is None else [replace(s, position=None) for s in read(responses)[0]]
    plain = replace(settings, out=out, generate=False, samples=1, dtype="float32", device="cpu")
    return capture(plain, teacher=teacher, sequences=sequences)


@pytest.mark.parametrize("dialect", SCORING)
def test_given_responses_get_the_records_of_a_direct_capture(
    dialect: str, make: Make, teacher: LanguageModel, tmp_path: Path
) -> None:
    world = World(teacher, dialect)
    world.shuffles = True
    world.faults.extend(["", "429", "", "500", "cut", "slow", "hang", "nan", "few", "", "retokenised"])
    with serving(world) as url:
        settings = make(url, server={"timeout_s": 0.3})
        out = capture_served(settings)
    assert Cache.open(out).meta.num_shards > 1
    check_equal(out, direct(settings, teacher, tmp_path / "direct"))


@pytest.mark.parametrize("fault", ["endless", ""])
def test_an_answer_without_end_does_not_fill_the_memory(fault: str, make: Make, teacher: LanguageModel) -> None:
    """Also one that is merely longer than is allowed; neither is asked for again."""
    world = World(teacher, "vllm")
    with serving(world) as url:
        most = 1 << 20 if fault else 1024
        settings = make(url, server={"answer_bytes": most, "concurrency": 1})
        world.faults.extend([fault] * 20)
        with pytest.raises(ServerError, match=f"/v1/completions answers more than {most:,} bytes") as refused:
            capture_served(settings)
    assert "server.answer_bytes" in (refused.value.hint or "")
    assert not fault or world.asked["/v1/completions"] <= 2


@pytest.mark.parametrize("dialect", ALL)
def test_generated_responses_get_the_records_of_a_direct_capture(
    dialect: str, make: Make, teacher: LanguageModel, tmp_path: Path
) -> None:
    world = World(teacher, dialect)
    world.shuffles = True
    with serving(world) as url:
        settings = make(url, generate=True, samples=2)
        out = capture_served(settings)
        again = capture_served(
            replace(settings, out=tmp_path / "again", server=replace(settings.server, concurrency=1))
        )
    check_equal(out, direct(settings, teacher, tmp_path / "direct", responses=out))
    responses = {tuple(s.response_ids.tolist()) for s in read(out)[0]}
    assert len(responses) > len(read(out)[0]) // 2, "samples and prompts have seeds of their own"
    shards = sorted(path.name for path in (out / "shards").iterdir())
    assert shards and all((out / "shards" / n).read_bytes() == (again / "shards" / n).read_bytes() for n in shards)
    assert not list((out / "answers").iterdir())


@pytest.mark.parametrize("dialect", ["llama.cpp", "openai"])
def test_a_server_that_cannot_score_given_responses_is_refused(
    dialect: str, make: Make, teacher: LanguageModel
) -> None:
    with serving(World(teacher, dialect)) as url, pytest.raises(UsageError, match="generates alone"):
        capture_served(make(url))


def test_values_that_stand_for_minus_infinity_are_read_as_such(make: Make, teacher: LanguageModel) -> None:
    world = World(teacher, "sglang")
    world.floor = -4.0
    with serving(world) as url:
        out = capture_served(make(url))
    _, target = read(out)
    lowest = target.log_probs_NK.min(dim=1).values
    assert (lowest == float("-inf")).any() and ((lowest > -4.1) | torch.isneginf(lowest)).all()


def refuses(make: Make, teacher: LanguageModel, dialect: str, fault: str, error: type[ThackError], words: str) -> None:
    world = World(teacher, dialect)
    with serving(world) as url:
        settings = make(url, generate=dialect not in SCORING, server={"concurrency": 1})
        world.faults.extend([""] * 16 + [fault] * 100)  # the probes are answered well
        with pytest.raises(error, match=words):
            capture_served(settings)


@pytest.mark.parametrize(
    ("dialect", "fault", "error", "words"),
    [
        ("vllm", "nan", DataError, "prompt .*nan is not a log-probability"),
        ("sglang", "nan", DataError, "nan is not a log-probability"),
        ("llama.cpp", "nan", DataError, "nan is not a log-probability"),
        ("sglang", "few", DataError, "11 entries, expected 12"),
        ("vllm", "retokenised", DataError, "encoded the prompt again"),
        ("sglang", "retokenised", DataError, "encoded the prompt again"),
        ("llama.cpp", "retokenised", DataError, "encoded the prompt again"),
        ("openai", "texts", DataError, "is a text, not an id"),
        ("vllm", "500", ServerError, "no answer after 3 attempts"),
        ("vllm", "cut", ServerError, "no answer after 3 attempts"),
    ],
)
def test_a_server_that_never_answers_well_is_refused(
    make: Make, teacher: LanguageModel, dialect: str, fault: str, error: type[ThackError], words: str
) -> None:
    refuses(make, teacher, dialect, fault, error, words)


def test_answers_are_not_asked_for_twice_after_a_failure(make: Make, teacher: LanguageModel) -> None:
    world = World(teacher, "vllm")
    with serving(world) as url:
        settings = make(url, server={"concurrency": 1, "retries": 0})
        world.faults.extend([""] * 16 + [""] * 4 + ["retokenised"] * 3)
        with pytest.raises(DataError):
            capture_served(settings)
        given = [ids for ids, count in world.scored.items() if count == 1]
        assert len(given) == 4
        out = capture_served(settings)
        assert [world.scored[ids] for ids in given] == [1] * len(given)
    assert Cache.open(out).meta.num_sequences == 12


def test_another_model_behind_the_address_is_found(make: Make, teacher: LanguageModel) -> None:
    other = tiny_model(teacher.tokenizer, seed=1)
    world = World(teacher, "vllm")
    with serving(world) as url:
        settings = make(url, server={"concurrency": 1})
        world.faults.extend([""] * 16 + [""] * 4 + ["retokenised"] * 3)
        with pytest.raises(DataError):
            capture_served(settings)
        world.model = other
        with pytest.raises(MismatchError, match="another teacher") as resumed:
            capture_served(settings)
        assert "total variation" in str(resumed.value)
        world.model = teacher
        out = capture_served(settings)
    read(out)


def test_a_model_that_changes_during_a_capture_is_found_and_its_answers_are_dropped(
    make: Make, teacher: LanguageModel, tmp_path: Path
) -> None:
    other = tiny_model(teacher.tokenizer, seed=1)

    class Restarted(World):
        def rows(self, ids: list[int], first: int) -> np.ndarray:
            if len(self.scored) == 6 and self.model is teacher:
                self.model = other
            return super().rows(ids, first)

    world = Restarted(teacher, "vllm")
    with serving(world) as url:
        settings = make(url, server={"concurrency": 1})
        with pytest.raises(MismatchError, match="another teacher") as caught:
            capture_served(settings)
        assert "answers were dropped" in str(caught.value)
        world.model = teacher
        world.scored[(-1,)] = 1  # no further restart
        world.scored.update({(-n,): 1 for n in range(2, 20)})
        out = capture_served(settings)
    check_equal(out, direct(settings, teacher, tmp_path / "direct"))


def test_processed_log_probabilities_are_found_and_have_to_be_meant(make: Make, teacher: LanguageModel) -> None:
    world = World(teacher, "vllm")
    world.processed = True
    with serving(world) as url:
        warm = make(url, generate=True, sampling=SamplingSettings(temperature=0.7))
        with pytest.raises(UsageError, match="follow its sampling settings"):
            capture_served(warm)
        meant = replace(warm, out=warm.out / "meant", server=replace(warm.server, logprobs="processed"))
        assert Cache.open(capture_served(meant)).layout.spec.tail == "processed"
        plain = make(url, generate=True, out="plain")  # at temperature 1 they are the teacher's own
        assert Cache.open(capture_served(plain)).layout.spec.tail == "estimated"
    world.processed = False
    with serving(world) as url:
        raw = make(url, generate=True, sampling=SamplingSettings(temperature=0.7), out="raw")
        assert Cache.open(capture_served(raw)).layout.spec.tail == "estimated"


def test_a_limit_of_the_server_is_said_before_anything_is_paid(make: Make, teacher: LanguageModel) -> None:
    world = World(teacher, "vllm")
    with serving(world) as url, pytest.raises(ServerError, match="max allowed: 20"):
        capture_served(make(url, top_k=64))
    assert not world.scored


@pytest.mark.parametrize("has_tokenize", [True, False])
def test_another_tokenizer_is_refused(has_tokenize: bool, make: Make, teacher: LanguageModel) -> None:
    from thack.data.tokenizer import Tokenizer

    other = Tokenizer.train(["quite other words: 日本語 and Ünïcode"] * 4, 290)
    world = World(tiny_model(other), "openai")
    world.has_tokenize = has_tokenize
    with serving(world) as url, pytest.raises(MismatchError, match="another tokenizer"):
        capture_served(make(url, generate=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "dense"}, "kind = dense"),
        ({"temperatures": (2.0,)}, "temperatures"),
        ({"teacher": "x"}, "both given"),
        ({"samples": 2}, "needs generate"),
        ({"server": {"tokenizer": ""}}, "needs its tokenizer"),
    ],
)
def test_what_a_server_cannot_give_is_refused_before_it_is_asked(
    make: Make, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check_capture(make("http://127.0.0.1:9", **changes))


def test_a_model_that_the_server_does_not_have_is_named(make: Make, teacher: LanguageModel) -> None:
    with serving(World(teacher, "vllm")) as url, pytest.raises(UsageError, match=r"no model 'big'.*\n.*tiny"):
        capture_served(make(url, server={"model": "big"}))


@pytest.mark.parametrize(
    ("url", "typed"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("10.0.0.7:8000/v1", "http://10.0.0.7:8000/v1"),
        ("gpu-3", "http://gpu-3"),
        ("http//x", "http://localhost:8000"),
        ("http:localhost", "http://localhost:8000"),
        ("ftp://x", "http://localhost:8000"),
        ("http://", "http://localhost:8000"),
        ("http://x:port", "http://localhost:8000"),
        ("http://[::1", "http://localhost:8000"),
    ],
)
def test_what_is_no_address_is_refused_before_it_is_asked(url: str, typed: str, make: Make) -> None:
    for refuse in (capture_served, check_capture):
        with pytest.raises(UsageError, match="not an address of a server") as refused:
            refuse(make(url))
        assert refused.value.hint == f"such as {typed}"


@pytest.mark.parametrize("url", ["http://localhost:8000", "https://host/path/v1/", "http://[::1]:8000", "http://a"])
def test_an_address_is_accepted(url: str) -> None:
    check_address(url)


class Padded(World):
    """A model with 8 rows more than the tokenizer has ids, each with a mass of 0.002; it may draw them."""

    def rows(self, ids: list[int], first: int) -> np.ndarray:
        size = self.model.tokenizer.size
        rows = super().rows([min(i, size - 1) for i in ids], first)
        return np.concatenate([rows + np.log1p(-8 * 0.002), np.full((len(rows), 8), np.log(0.002))], axis=1)

    def write(self, prompt: list[int], new: int, temperature: float, seed: int) -> tuple[list[int], np.ndarray, str]:
        tokens, rows, reason = super().write(prompt, new, temperature, seed)
        if seed % 3 == 0:
            tokens[-1] = self.model.tokenizer.size + 3
        return tokens, rows, reason


@pytest.mark.parametrize("generate", [False, True])
def test_padded_rows_take_no_part(generate: bool, make: Make, teacher: LanguageModel, tmp_path: Path) -> None:
    with serving(Padded(teacher, "sglang")) as url:
        settings = make(url, generate=generate)
        out = capture_served(settings)
    wanted = direct(settings, teacher, tmp_path / "direct", responses=out if generate else None)
    check_equal(out, wanted, unseen=0.018)  # padded ids that no answer lists are in its tail


def test_a_tokenizer_without_tokens_of_the_model_is_told_from_padding(make: Make, teacher: LanguageModel) -> None:
    class Larger(World):
        def rows(self, ids: list[int], first: int) -> np.ndarray:
            rows = super().rows(ids, first)
            return np.concatenate([rows + np.log(0.7), np.full((len(rows), 1), np.log(0.3))], axis=1)

        def write(self, *asked: Any) -> tuple[list[int], np.ndarray, str]:
            return [5], self.rows([5, 5], 1), "length"

    with serving(Larger(teacher, "sglang")) as url, pytest.raises(DataError, match=r"mass of 0\.30 is on ids that the"):
        capture_served(make(url))
