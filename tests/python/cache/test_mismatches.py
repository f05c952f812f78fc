"""Thirty pairs that do not belong together: each refused, with both values shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thack import _native
from thack.cache import Cache, inspect, verify
from thack.cache.capture.job import capture
from thack.cache.capture.preparation import prepare_directory, prepare_job
from thack.cache.exchange.importing import ImportSettings, import_cache
from thack.cache.format.ends import read_ends
from thack.cache.format.plan import publish_plan, read_plan
from thack.cache.format.writer import read_writer
from thack.config import CacheSettings, DataSettings, DistillSettings, SamplingSettings
from thack.data.eos import Ends
from thack.errors import CacheError, MismatchError, ThackError, UsageError
from thack.files import canonical_json
from thack.schema.targets import TargetSpec

from .conftest import VOCAB, FakeTeacher, make_sequences
from .test_exchange import line, write_jsonl

SEQUENCES = make_sequences(12)


@dataclass(frozen=True)
class Begun:
    """A complete top-k cache and its settings."""

    settings: CacheSettings
    directory: Path

    def again(self, sequences: list[Any] = SEQUENCES, teacher: FakeTeacher | None = None, **changes: Any) -> None:
        capture(replace(self.settings, **changes), teacher=teacher or FakeTeacher(), sequences=sequences)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    out = tmp_path_factory.mktemp("begun") / "cache"
    settings = CacheSettings(
        out=out,
        kind="top-k",
        top_k=4,
        temperatures=(2.0,),
        shard_tokens=40,
        batch_size=4,
        device="cpu",
        dtype="float32",
    )
    capture(settings, teacher=FakeTeacher(), sequences=SEQUENCES)
    return Begun(settings, out)


def changed(number: int = 5, **changes: Any) -> list[Any]:
    return [replace(s, **changes) if s.example == number else s for s in SEQUENCES]


class OnCuda(FakeTeacher):
    """Says that it is elsewhere."""

    device = property(lambda self: type("device", (), {"type": "cuda", "index": 0})())


RESUMED: dict[str, tuple[Callable[[Begun], None], str, str]] = {
    # what differs now, the key that is named, and one of the two values
    "kind": (lambda b: b.again(kind="dense", temperatures=()), "record.kind", "dense"),
    "k": (lambda b: b.again(top_k=5), "record.k", "4 there, 5 now"),
    "temperatures": (lambda b: b.again(temperatures=(3.0,)), "record.temperatures", "[2.0] there, [3.0] now"),
    "teacher": (lambda b: b.again(teacher=FakeTeacher(name="b")), "fingerprints.teacher", "sample:teacher-b now"),
    "tokenizer": (lambda b: b.again(teacher=FakeTeacher(tokenizer="b")), "fingerprints.tokenizer", "tokenizer-b now"),
    "fewer data": (lambda b: b.again(SEQUENCES[:-1]), "fingerprints.data", "sha256:"),
    "more data": (lambda b: b.again(make_sequences(13)), "fingerprints.data", "sha256:"),
    "data in another order": (lambda b: b.again(SEQUENCES[::-1]), "fingerprints.data", "sha256:"),
    "one prompt token": (lambda b: b.again(changed(prompt_ids=np.asarray([1], np.int32))), "fingerprints.data", "sha"),
    "one response token": (
        lambda b: b.again(changed(response_ids=(SEQUENCES[5].response_ids + 1) % VOCAB)),
        "fingerprints.data",
        "sha256:",
    ),
    "one prompt id": (lambda b: b.again(changed(prompt_id="other")), "fingerprints.data", "sha256:"),
    "one sample number": (lambda b: b.again(changed(sample=1)), "fingerprints.data", "sha256:"),
    "seed": (lambda b: b.again(seed=1), "seed", "0 there, 1 now"),
    "batch size": (lambda b: b.again(batch_size=5), "batch_size", "4 there, 5 now"),
    "tokens per shard": (lambda b: b.again(shard_tokens=30), "firsts", "now"),
    "bytes per shard": (lambda b: b.again(shard_bytes=900), "fingerprints.settings", "sha256:"),
    "number format": (lambda b: b.again(dtype="bfloat16"), "fingerprints.settings", "sha256:"),
    "device": (lambda b: b.again(teacher=OnCuda()), "device", "cpu there, cuda now"),
}


@pytest.mark.parametrize("optional", [{"minor": 0}, {"teacher_prompts": True}, {"head": "sha256:h"}])
def test_a_plan_with_a_key_that_another_lacks_differs_in_it(
    begun: Begun, tmp_path: Path, optional: dict[str, Any]
) -> None:
    """Every key that is written for some caches alone, from either side."""
    plan = read_plan(begun.directory)
    if "head" in optional:
        layout = replace(plan.layout, spec=TargetSpec(kind="projected", k=16, value_bits=16))
        other = replace(plan, layout=layout, fingerprints=replace(plan.fingerprints, **optional))
    else:
        other = replace(plan, **optional)
    for number, (first, second) in enumerate(((plan, other), (other, plan))):
        directory = tmp_path / str(number)
        directory.mkdir()
        publish_plan(directory, first)
        with pytest.raises(MismatchError, match=rf"{next(iter(optional))} .* there, .* now"):
            publish_plan(directory, second)


@pytest.mark.parametrize("what", RESUMED)
def test_another_capture_is_refused(begun: Begun, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, key, value = RESUMED[what]
    before = {path: path.read_bytes() for path in begun.directory.rglob("*") if path.is_file()}
    if what == "device":
        monkeypatch.setattr("thack.runtime.device.choose_dtype", lambda *a, **k: (__import__("torch").float32, ""))
    with pytest.raises(MismatchError) as caught:
        attempt(begun)
    said = str(caught.value)
    assert key in said and value in said and "there," in said and "now" in said
    assert {path: path.read_bytes() for path in begun.directory.rglob("*") if path.is_file()} == before


def test_another_build_is_refused(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thack._version.__version__", "99.0")
    with pytest.raises(MismatchError, match=r"build +[\d.a-z]+ there, 99\.0 now"):
        begun.again()


def test_a_full_hash_is_kept_and_is_not_taken_for_a_sample(begun: Begun, tmp_path: Path) -> None:
    """Resuming hashes as much of the teacher as the first capture did; a full hash against a sampled one is refused."""
    asked = FakeTeacher()
    asked.full_hash = True
    begun.again(teacher=asked, out=tmp_path / "full")
    begun.again(out=tmp_path / "full")
    assert Cache.open(tmp_path / "full").meta.teacher == "sha256:teacher-fake"
    with pytest.raises(MismatchError, match="sha256:teacher-fake there, sha256:teacher-b now"):
        begun.again(teacher=FakeTeacher(name="b"), out=tmp_path / "full")
    with pytest.raises(MismatchError, match="sample:teacher-fake there, sha256:teacher-fake now"):
        begun.again(teacher=asked)


@pytest.mark.parametrize("full", [False, True])
def test_a_live_teacher_beside_a_cache_is_compared_as_the_cache_knows_it(begun: Begun, full: bool) -> None:
    from thack.training.matching import check_same_teacher

    cache = Cache.open(begun.directory)
    prints = replace(cache.plan.fingerprints, teacher=FakeTeacher().fingerprint(full=full))
    cache._plan = replace(cache.plan, fingerprints=prints)
    check_same_teacher([cache], FakeTeacher())
    with pytest.raises(MismatchError, match=f"cache +{'sha256' if full else 'sample'}:teacher-fake") as caught:
        check_same_teacher([cache], FakeTeacher(name="b"))
    assert f"teacher  {'sha256' if full else 'sample'}:teacher-b" in str(caught.value)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_ranks_that_publish_different_threads_go_by_one_plan(
    begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Nodes differ in their cores. Every rank uses the plan in the directory, whichever rank's it is."""
    ours, theirs = (replace(read_plan(begun.directory), threads=n) for n in (1, 2))
    real = _native.publish

    def sibling(path: Path, data: bytes) -> bool:
        monkeypatch.undo()
        if moment == "before":
            real(path, theirs.to_bytes())
            return real(path, data)
        new = real(path, data)
        path.write_bytes(theirs.to_bytes())
        return new

    monkeypatch.setattr(_native, "publish", sibling)
    assert publish_plan(tmp_path, ours) == read_plan(tmp_path) == theirs


def test_generated_and_given_responses_are_not_mixed(begun: Begun) -> None:
    prompts = [replace(s, response_ids=np.empty(0, np.int32)) for s in SEQUENCES]
    with pytest.raises(MismatchError, match=r"fingerprints\.settings"):
        begun.again(prompts, generate=True)
    assert read_writer(begun.directory) is None  # a policy gradient takes writer.json for proof
    sampled = replace(begun.settings, out=begun.directory.with_name("generated"), generate=True)
    prepare_directory(sampled.out)
    prepare_job(sampled, teacher=FakeTeacher(), sequences=prompts)
    for change in (
        {"sampling": SamplingSettings(temperature=0.5)},
        {"data": DataSettings(max_response_tokens=7)},
        {"samples": 2},
    ):
        with pytest.raises(MismatchError, match=r"there, .* now"):
            prepare_job(replace(sampled, **change), teacher=FakeTeacher(), sequences=prompts)


def test_a_command_that_ends_before_its_plan_leaves_nothing_to_the_next(
    begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _native.publish

    def killed(path: Path, data: bytes) -> bool:
        if path.name == "plan.json":
            raise KeyboardInterrupt
        return real(path, data)

    sampled = replace(begun.settings, out=tmp_path / "cache", generate=True)
    prompts = [replace(s, response_ids=np.empty(0, np.int32)) for s in SEQUENCES]
    prepare_directory(sampled.out)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_native, "publish", killed)
        prepare_job(sampled, teacher=FakeTeacher(), sequences=prompts)
    assert not [name for name in ("ends.json", "tokenizer", "writer.json") if (sampled.out / name).exists()]
    colder = replace(sampled, sampling=SamplingSettings(temperature=0.5), data=DataSettings(max_response_tokens=7))
    prepare_job(colder, teacher=FakeTeacher(), sequences=prompts)
    writer, ends = read_writer(sampled.out), read_ends(sampled.out)
    assert writer is not None and writer.sampling["temperature"] == 0.5
    assert ends is not None and ends[1] == 7


def test_a_file_that_names_another_writer_is_an_error(begun: Begun, tmp_path: Path) -> None:
    sampled = replace(begun.settings, out=tmp_path / "cache", generate=True)
    prompts = [replace(s, response_ids=np.empty(0, np.int32)) for s in SEQUENCES]
    prepare_directory(sampled.out)
    prepare_job(sampled, teacher=FakeTeacher(), sequences=prompts)
    prepare_job(sampled, teacher=FakeTeacher(), sequences=prompts)
    path = sampled.out / "writer.json"
    path.write_text(path.read_text().replace("teacher-fake", "teacher-b"))
    with pytest.raises(MismatchError, match=r"writer\.json says that the responses were written otherwise") as caught:
        prepare_job(sampled, teacher=FakeTeacher(), sequences=prompts)
    assert "teacher-b" in str(caught.value) and "teacher-fake" in str(caught.value)


METADATA = ["format", "plan", "teacher", "tokenizer", "data", "settings", "shard", "kind", "k", "vocab_size", "tail"]


@pytest.mark.parametrize("key", METADATA)
def test_a_shard_that_says_something_else_is_refused(begun: Begun, key: str, tmp_path: Path) -> None:
    """A shard that is good in itself, of another plan in one word: named by verify, refused by reads."""
    other = tmp_path / "cache"
    _copy(begun.directory, other)
    plan = read_plan(other)
    path = other / "shards" / _native.shard_name(0)
    value = {"k": "5", "vocab_size": "51", "kind": "dense", "tail": "estimated", "shard": "1"}.get(key, "sha256:b")
    metadata = plan.metadata(0) | {key: value}
    path.unlink()
    _write(path, metadata, plan.shard(0))
    (other / "manifest.json").unlink()
    cause = verify(other).damaged[0].cause
    assert repr(value) in cause and repr(plan.metadata(0)[key]) in cause
    with pytest.raises(CacheError, match="not finished"):
        Cache.open(other)
    (other / "manifest.json").write_bytes((begun.directory / "manifest.json").read_bytes())
    with pytest.raises((CacheError, MismatchError)) as caught:
        Cache.open(other).targets([0])
    assert value in str(caught.value) and plan.metadata(0)[key] in str(caught.value)


def test_a_manifest_of_other_shards_or_another_plan_is_refused(begun: Begun, tmp_path: Path) -> None:
    other = tmp_path / "cache"
    _copy(begun.directory, other)
    manifest = json.loads((other / "manifest.json").read_bytes())
    root = manifest["shards"][0]["root"]
    manifest["shards"][0]["root"] = "0" * 64
    (other / "manifest.json").write_bytes(canonical_json(manifest))
    assert re.search(f"{root[:16]}… *, the manifest says 0000", verify(other).damaged[0].cause)
    with pytest.raises(MismatchError, match=r"written for other shards\n.*0000… in the manifest"):
        capture(replace(begun.settings, out=other), teacher=FakeTeacher(), sequences=SEQUENCES)
    manifest["plan"] = "sha256:another"
    (other / "manifest.json").write_bytes(canonical_json(manifest))
    for refuse in (Cache.open, inspect):
        with pytest.raises(CacheError, match=r"(?s)another plan.*sha256:another.*plan +sha256:[0-9a-f]{64}"):
            refuse(other)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    # all but one are consistent in themselves: only the shards tell
    "kind": lambda m: m.update(kind="run"),
    "format": lambda m: m.update(format=2),
    "a new key": lambda m: m.update(note="x"),
    "a sum alone": lambda m: m.update(tokens=m["tokens"] + 1),
    "tokens": lambda m: (m.update(tokens=m["tokens"] + 1), m["shards"][1].update(tokens=m["shards"][1]["tokens"] + 1)),
    "bytes": lambda m: (m.update(bytes=m["bytes"] - 8), m["shards"][0].update(bytes=m["shards"][0]["bytes"] - 8)),
    "sequences": lambda m: (
        m["shards"][0].update(sequences=m["shards"][0]["sequences"] + 1),
        m["shards"][1].update(sequences=m["shards"][1]["sequences"] - 1),
    ),
    "root": lambda m: m["shards"][1].update(root=m["shards"][0]["root"]),
    "order": lambda m: m["shards"].reverse(),
    "a shard less": lambda m: m["shards"].pop(),
    "a number as a truth value": lambda m: m.update(format=True),
}


@pytest.mark.parametrize("what", CHANGES)
def test_verify_compares_every_field_of_the_manifest_with_the_shards(begun: Begun, tmp_path: Path, what: str) -> None:
    other = tmp_path / "cache"
    _copy(begun.directory, other)
    manifest = json.loads((other / "manifest.json").read_bytes())
    CHANGES[what](manifest)
    (other / "manifest.json").write_bytes(canonical_json(manifest))
    found = verify(other)
    assert not found.ok and found.damaged and "manifest" in str(found.damaged), what


def test_another_import_is_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [line(1), line(2)])
    settings = ImportSettings(source=source, out=tmp_path / "c", vocab_size=VOCAB, tokenizer="sha256:t", top_k=3)
    import_cache(settings)
    write_jsonl(tmp_path / "other.jsonl", [line(1), line(3)])
    for change, key, value in (
        ({"top_k": 2}, "record.k", "3 there, 2 now"),
        ({"estimate_tail": False}, "record.tail", "estimated there, none now"),
        ({"tokenizer": "sha256:u"}, "fingerprints.tokenizer", "sha256:t there, sha256:u now"),
        ({"source": tmp_path / "other.jsonl"}, "fingerprints.data", "there"),
    ):
        with pytest.raises(MismatchError) as caught:
            import_cache(replace(settings, **change, ends=Ends(eos=0)))
        assert key in str(caught.value) and value in str(caught.value)
    assert read_ends(settings.out) is None


def test_another_kind_of_directory_is_refused(begun: Begun, tmp_path: Path) -> None:
    (tmp_path / "thack.json").write_text('{"kind": "run", "format": 1}')
    with pytest.raises(UsageError, match="is a run, not a cache"):
        begun.again(out=tmp_path)


def test_a_moved_and_touched_cache_is_the_same(begun: Begun, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    _copy(begun.directory, other)
    for path in other.rglob("*"):
        path.touch()
    begun.again(out=other)
    assert Cache.open(other).meta == Cache.open(begun.directory).meta and verify(other, full=True).ok


def test_a_student_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """What distill says where it may not compare cells: both fingerprints."""
    import thack
    from thack.config import ArchitectureSettings, LossSettings
    from thack.data.tokenizer import Tokenizer
    from thack.models.load import new_decoder

    for name, text in (("teacher", "abc"), ("student", "xyz")):
        tokenizer = Tokenizer.train([text * 50], 300)
        new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0).save(tmp_path / name)
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"id": "a", "prompt": "abc", "response": "abcabc"}\n')
    teacher, student = str(tmp_path / "teacher"), str(tmp_path / "student")
    cache = thack.cache_logits(
        CacheSettings(teacher=teacher, data=DataSettings(path=str(data)), out=tmp_path / "cache", top_k=4)
    )
    refuse = LossSettings(cross_tokenizer="refuse")
    with pytest.raises(ThackError) as caught:
        thack.distill(DistillSettings(student=student, cache=str(cache), out=tmp_path / "run", loss=refuse))
    assert len(re.findall(r"sha256:[0-9a-f]{8}", str(caught.value))) >= 2, str(caught.value)
    with pytest.raises(ThackError) as caught:
        thack.distill(DistillSettings(student=teacher, teacher=student, cache=str(cache), out=tmp_path / "run2"))
    assert len(re.findall(r"sha256:[0-9a-f]{8}", str(caught.value))) >= 2, str(caught.value)


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("journal"))


def _write(path: Path, metadata: dict[str, str], numbers: range) -> None:
    layout = _native.RecordLayout(metadata)
    writer = _native.ShardWriter(path, metadata)
    for number in numbers:
        s = SEQUENCES[number]
        writer.records(bytes(layout.stride * len(s.response_ids)))
        writer.sequence((number, s.example, 0), s.prompt_id, s.prompt_ids, s.response_ids)
    writer.finish()
