"""Log ratios in nats per byte: against the definition in float64, and what is left out where tokenizers differ."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend

from runtime.said import Said
from thack.config import DataSettings, EvaluateSettings, EvaluationSettings
from thack.cross_tokenizer import read_bpe
from thack.data import Record
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, UsageError
from thack.evaluation import EvalSet, Evaluator, References, evaluate, run_evaluate
from thack.evaluation.golden import golden
from thack.evaluation.readings import Readings
from thack.models.batch import Batch
from thack.models.native.llama import Llama
from thack.runtime.process_group import ALONE
from thack.schema.evaluation import EvalSetOrigin
from thack.schema.metrics import GOLDEN, LOG_RATIO, PROXY, MetricName, Role

from .small import sharp
from .two_tokenizers import TEXTS, ours, theirs

SETTINGS = EvaluationSettings(batch_size=5, bootstrap=50, student_samples=False)


@cache
def model(own: bool, seed: int) -> Llama:
    return sharp(ours() if own else theirs(), seed)


def encoded(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.append(tokenizer.encode(text), np.int32(tokenizer.eos_id))


def written(oracle: Llama, teacher: Llama, others: tuple[Tokenizer, ...] = ()) -> EvalSet:
    """An evaluation set whose responses are the texts above, each in its writer's ids."""
    records = [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)") for i in range(len(TEXTS))]
    references = References(oracle=oracle, teacher=teacher)
    found = EvalSet.from_records(records).with_responses(references, readers=others, max_new_tokens=3)
    responses = {
        role: tuple(encoded(model.tokenizer, text) for text in (TEXTS if role is Role.ORACLE else TEXTS[::-1]))
        for role, model in references
    }
    return replace(found, responses=responses)


def log_prob(model: Llama, prompt: str, ids: np.ndarray) -> float:
    """Σ log softmax of each id, one forward per sequence, in float64."""
    prompt_ids = model.tokenizer.encode(prompt)
    whole = torch.from_numpy(np.concatenate([prompt_ids, ids]).astype(np.int64))
    batch = Batch.of(EvalSet(ids=("",), texts=("",), prompts=(prompt_ids,)).sequences_of([ids]))
    with torch.no_grad():
        rows = torch.log_softmax(model(batch).double()[:, : model.tokenizer.size], 1)
    return sum(float(row[i]) for row, i in zip(rows, whole[len(prompt_ids) :], strict=True))


def expected(writer: Llama, reader: Llama, texts: list[str]) -> np.ndarray:
    return np.array([
        log_prob(writer, f"def f{i}(x)", encoded(writer.tokenizer, text))
        - log_prob(reader, f"def f{i}(x)", encoded(reader.tokenizer, text))
        for i, text in enumerate(texts)
    ])  # fmt: skip


@pytest.mark.parametrize(("oracle_own", "teacher_own"), [(True, False), (False, False), (False, True), (True, True)])
def test_equals_its_definition(oracle_own: bool, teacher_own: bool) -> None:
    oracle, teacher, student = model(oracle_own, 0), model(teacher_own, 1), model(True, 2)
    eval_set = written(oracle, teacher, (ours(),))
    settings = replace(SETTINGS, per_byte=oracle_own and teacher_own)
    found = evaluate(student, eval_set, References(oracle=oracle, teacher=teacher), settings=settings)
    pairs = {
        "golden/log_ratio/reference_sampled": expected(oracle, student, TEXTS),
        "proxy/log_ratio/reference_sampled": expected(teacher, student, TEXTS[::-1]),
        "baseline/log_ratio/reference_sampled": expected(oracle, teacher, TEXTS),
        "baseline/log_ratio/student_sampled": expected(teacher, oracle, TEXTS[::-1]),
    }
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    for name, nats in pairs.items():
        sums = found.per_prompt[MetricName.parse(name)]
        np.testing.assert_allclose(sums.nats_P, nats, rtol=1e-4, atol=1e-3, err_msg=name)
        assert found.named()[f"{name}/byte_mean"] == pytest.approx(nats.sum() / num_bytes, rel=1e-4)
        assert found.named()[f"{name}/sequence_sum"] == pytest.approx(nats.mean(), rel=1e-4)
        assert found.named()[f"{name}/byte_mean/low"] < found.named()[f"{name}/byte_mean/high"]
    assert (GOLDEN in found.columns) == oracle_own and (PROXY in found.columns) == teacher_own
    assert (GOLDEN.of_baseline in found.columns) == (oracle_own == teacher_own)


def test_same_tokenizers_have_it_where_it_is_asked_for() -> None:
    references = References(oracle=model(True, 0), teacher=model(True, 1))
    eval_set = written(model(True, 0), model(True, 1))
    plain = evaluate(model(True, 2), eval_set, references, settings=SETTINGS)
    asked = evaluate(model(True, 2), eval_set, references, settings=replace(SETTINGS, per_byte=True))
    assert not any(name.divergence == LOG_RATIO for name in plain.columns)
    assert plain.columns == {name: v for name, v in asked.columns.items() if name.divergence != LOG_RATIO}


def test_tokens_without_bytes_of_their_own_are_refused_by_name() -> None:
    content = json.loads(ours()._backend.to_str()) | {"normalizer": {"type": "Lowercase"}}
    lower = Tokenizer(Backend.from_str(json.dumps(content)), replace(ours().facts))
    references = References(oracle=sharp(lower, 0))
    eval_set = EvalSet.from_records([Record(prompt_id="a", prompt="def f(x)")])
    eval_set = eval_set.with_responses(references, max_new_tokens=3)
    student = sharp(lower, 2)
    assert GOLDEN in evaluate(student, eval_set, references, settings=SETTINGS).columns
    with pytest.raises(UsageError, match=r"evaluation.per_byte counts the bytes[\s\S]*normalizer Lowercase"):
        evaluate(student, eval_set, references, settings=replace(SETTINGS, per_byte=True))
    with pytest.raises(MismatchError, match="normalizer Lowercase"):
        evaluate(model(True, 2), eval_set, references, settings=SETTINGS)


def test_its_expectation_is_the_forward_kl_of_whole_responses() -> None:
    """Every response of one token, weighted by the oracle: exact."""
    oracle, student = model(True, 0), model(True, 2)
    ids = range(ours().size)
    origin = EvalSetOrigin(
        tokenizer=ours().fingerprint(), writers={Role.ORACLE: oracle.fingerprint()}, seed=0, max_new_tokens=1
    )
    prompts = tuple(ours().encode("def f(x)") for _ in ids)
    eval_set = EvalSet(
        ids=tuple(map(str, ids)),
        texts=("def f(x)",) * len(ids),
        prompts=prompts,
        responses={Role.ORACLE: tuple(np.array([i], np.int32) for i in ids)},
        origin=origin,
    )
    settings = replace(SETTINGS, per_byte=True, batch_size=64)
    found = evaluate(student, eval_set, References(oracle=oracle), settings=settings).per_prompt
    p = np.exp([log_prob(oracle, "def f(x)", np.array([i], np.int32)) for i in ids])
    ratio = found[replace(GOLDEN.per_byte, reduction=None)].nats_P
    assert p @ ratio == pytest.approx(found[GOLDEN.per_prompt].nats_P[0], rel=1e-4)


def test_student_samples_are_scored_by_references_with_other_ids() -> None:
    teacher, student = model(False, 1), model(True, 2)
    eval_set = EvalSet.from_records([Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)") for i in range(7)])
    eval_set = eval_set.with_responses(References(teacher=teacher), max_new_tokens=6)
    settings = replace(SETTINGS, student_samples=True, health=True)
    evaluator = Evaluator(eval_set, References(teacher=teacher), settings)
    found = evaluator.evaluate(student)
    name = MetricName(role=Role.TEACHER, divergence=LOG_RATIO, responses="student_sampled", reduction=None)
    sums = found.per_prompt[name]
    assert sums.bytes_P is not None and sums.bytes_P.sum() > 7
    assert 0 <= found.named()["health/left_out_share/student_sampled"] < 1
    assert {str(n).split("/")[1] for n in found.columns} == {"log_ratio"}
    assert evaluator.evaluate(student).columns == found.columns
    assert found.scored_tokens > 0 and found.kept is not None


def test_responses_are_kept_with_the_log_ratio_of_each_chunk() -> None:
    teacher, student = model(False, 1), model(True, 2)
    eval_set = written(model(True, 0), teacher)
    eval_set = replace(eval_set, responses={Role.TEACHER: eval_set.responses[Role.TEACHER]})
    settings = replace(SETTINGS, student_samples=True, kept_prompts=3)
    evaluator = Evaluator(eval_set, References(teacher=teacher), settings)
    found = evaluator.evaluate(student)
    assert found.kept is not None
    rows = found.kept.rows(0, eval_set.ids, ours(), ALONE)
    assert [(row.prompt_id, row.writer) for row in rows] == [
        (f"p{i}", writer) for i in range(3) for writer in (None, Role.TEACHER)
    ]
    for i, text in enumerate(TEXTS[::-1][:3]):
        row = rows[2 * i + 1]
        assert "".join(row.tokens) == text + "</s>" and row.reference is Role.TEACHER
        chunks = by_chunks(theirs().encode(text).tolist(), ours().encode(text).tolist())
        nats = expected_chunks(teacher, student, i, text, chunks)
        assert row.nats == pytest.approx(nats, abs=2e-4)


def by_chunks(theirs_ids: list[int], ours_ids: list[int]) -> list[tuple[int, int]]:
    """How many of their tokens and of ours lie between one common boundary and the next; the end last."""
    bytes_T, bytes_S = read_bpe(theirs()).bytes_V, read_bpe(ours()).bytes_V
    found, a, b, place_a, place_b = [(0, 0)], 0, 0, 0, 0
    while a < len(theirs_ids) or b < len(ours_ids):
        if place_a <= place_b:
            place_a, a = place_a + len(bytes_T[theirs_ids[a]] or b""), a + 1
        else:
            place_b, b = place_b + len(bytes_S[ours_ids[b]] or b""), b + 1
        if place_a == place_b:
            found.append((a, b))
    return [(x - u, y - v) for (u, v), (x, y) in pairwise(found)] + [(1, 1)]


def expected_chunks(teacher: Llama, student: Llama, i: int, text: str, chunks: list[tuple[int, int]]) -> list[float]:
    """Each chunk's log ratio, once for each of the student's tokens in it, from whole responses cut behind chunks."""
    found, whole, before = [], (encoded(theirs(), text), encoded(ours(), text)), 0.0
    a = b = 0
    for num_theirs, num_ours in chunks:
        a, b = a + num_theirs, b + num_ours
        until = log_prob(teacher, f"def f{i}(x)", whole[0][:a]) - log_prob(student, f"def f{i}(x)", whole[1][:b])
        found += [until - before] * num_ours
        before = until
    return found


def test_what_cannot_be_rewritten_is_left_out_and_counted() -> None:
    teacher, student = model(False, 1), model(True, 2)
    eval_set = written(model(True, 0), teacher)
    pad = np.int32(theirs().pad_id)
    responses = list(eval_set.responses[Role.TEACHER])
    responses[0] = np.concatenate([responses[0][:2], [pad], responses[0][2:]])
    responses[1] = np.concatenate([[pad], responses[1]])
    eval_set = replace(eval_set, responses=dict(eval_set.responses) | {Role.TEACHER: tuple(responses)})
    references = References(oracle=model(True, 0), teacher=teacher)
    evaluator = Evaluator(eval_set, references, SETTINGS)
    (note,) = evaluator.notes(student)
    assert "1 are compared up to a control token and 1 are left out" in note
    found = evaluator.evaluate(student)
    sums = found.per_prompt[PROXY.per_byte.per_prompt]
    kept = theirs().decode(responses[0][:2])
    assert sums.tokens_P[0] == 2 and sums.tokens_P[1] == sums.nats_P[1] == 0
    assert sums.bytes_P is not None and sums.bytes_P[0] == len(kept) and sums.bytes_P[1] == 0
    prefix = log_prob(teacher, "def f0(x)", responses[0][:2]) - log_prob(student, "def f0(x)", ours().encode(kept))
    assert sums.nats_P[0] == pytest.approx(prefix, rel=1e-4)
    assert found.columns[replace(PROXY.per_byte, reduction="sequence_sum")] == pytest.approx(sums.nats_P.sum() / 4)
    lost, every = len(responses[0]) - 2 + len(responses[1]), sum(map(len, responses))
    assert found.named()["health/proxy/left_out_share/reference_sampled"] == pytest.approx(lost / every)
    nothing = replace(eval_set, responses=dict(eval_set.responses) | {Role.TEACHER: (np.array([pad]),) * 5})
    with pytest.raises(MismatchError, match="no response of the teacher can be written"):
        Evaluator(nothing, references, SETTINGS).notes(student)


def test_a_byte_that_the_student_does_not_give_back() -> None:
    eval_set = written(model(True, 0), model(False, 1), (ours(),))
    readings = Readings(eval_set, [ours(), theirs()])
    lone = [np.append(encoded(theirs(), "é")[:1], np.int32(theirs().eos_id)) for _ in TEXTS]  # half a character
    found = readings.between(eval_set.sequences_of(lone, theirs().fingerprint()), theirs(), ours())
    assert found.left_out == 0 and found.bytes_P.tolist() == [1] * 5
    assert [ours().token(int(i)) for i in found.read[0].response_ids] == [theirs().token(int(lone[0][0])), "</s>"]


def test_prompts_of_a_frozen_set_are_rewritten_or_refused(tmp_path: Path) -> None:
    teacher, student = model(False, 1), model(True, 2)
    eval_set = EvalSet.from_records([Record(prompt_id="a", prompt="def f(x)"), Record(prompt_id="b", prompt="def g")])
    with_prompts = eval_set.with_responses(References(teacher=teacher), readers=[ours()], max_new_tokens=4)
    without = eval_set.with_responses(References(teacher=teacher), max_new_tokens=4)
    with_prompts.save(tmp_path / "set")
    back = EvalSet.load(tmp_path / "set")
    assert back.fingerprint() == with_prompts.fingerprint() != without.fingerprint()
    references = References(teacher=teacher)
    one, other = (evaluate(student, s, references, settings=SETTINGS).columns for s in (back, without))
    assert one == other
    control = np.append(without.prompts[0], np.int32(theirs().pad_id))
    held = replace(without, prompts=(control, without.prompts[1]))
    with pytest.raises(MismatchError, match=r"prompt a holds '<pad>'[\s\S]*eval_data"):
        evaluate(student, held, references, settings=SETTINGS)


def test_a_teacher_with_prompts_of_its_own_reads_them_in_its_own_ids() -> None:
    teacher, student = model(False, 1), model(True, 2)
    records = [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)", teacher_prompt=f"five {i}") for i in range(5)]
    eval_set = EvalSet.from_records(records)
    eval_set = eval_set.with_responses(References(teacher=teacher), readers=[ours()], max_new_tokens=3)
    responses = tuple(encoded(theirs(), text) for text in TEXTS)
    eval_set = replace(eval_set, responses={Role.TEACHER: responses})
    found = evaluate(student, eval_set, References(teacher=teacher), settings=SETTINGS)
    nats = [
        log_prob(teacher, f"five {i}", encoded(theirs(), text))
        - log_prob(student, f"def f{i}(x)", encoded(ours(), text))
        for i, text in enumerate(TEXTS)
    ]
    np.testing.assert_allclose(found.per_prompt[PROXY.per_byte.per_prompt].nats_P, nats, rtol=1e-4, atol=1e-3)


def test_human_references_are_read_by_each_in_its_own_ids() -> None:
    teacher, student = model(False, 1), model(True, 2)
    records = [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)", response=text) for i, text in enumerate(TEXTS)]
    references = References(teacher=teacher, human=True)
    eval_set = EvalSet.from_records(records).with_responses(references, readers=[ours()], max_new_tokens=30)
    found = evaluate(student, eval_set, references, settings=SETTINGS)
    nats = [-log_prob(student, f"def f{i}(x)", encoded(ours(), text)) for i, text in enumerate(TEXTS)]
    own = [-log_prob(teacher, f"def f{i}(x)", encoded(theirs(), text)) for i, text in enumerate(TEXTS)]
    num_bytes = sum(map(len, TEXTS))
    human = GOLDEN.against(Role.HUMAN).per_byte
    assert found.columns[human] == pytest.approx(sum(nats) / num_bytes, rel=1e-4)
    assert found.named()[f"{human.of_baseline}"] == pytest.approx(sum(own) / num_bytes, rel=1e-4)


def test_the_command_writes_the_set_and_says_what_it_does(tmp_path: Path) -> None:
    for name, own, seed in (("student", True, 2), ("oracle", True, 0), ("teacher", False, 1)):
        model(own, seed).save(tmp_path / name)
    lines = [f'{{"prompt": "def f{i}(x)"}}\n' for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    settings = EvaluateSettings(
        student=str(tmp_path / "student"),
        teacher=str(tmp_path / "teacher"),
        oracle=str(tmp_path / "oracle"),
        eval_data=str(tmp_path / "prompts.jsonl"),
        data=DataSettings(max_response_tokens=6),
        out=tmp_path / "evaluation.json",
        evaluation=SETTINGS,
        device="cpu",
    )
    said = Said()
    found = run_evaluate(settings, said)
    assert "proxy: in nats per byte, since the student has another tokenizer" in "\n".join(said.lines)
    assert {str(PROXY.per_byte), str(GOLDEN), str(GOLDEN.per_byte)} <= found.columns.keys()
    (eval_set,) = tmp_path.glob("eval_set-*")
    back = EvalSet.load(eval_set)
    assert back.tokenizer_of(Role.TEACHER) == theirs().fingerprint() != back.tokenizer_of(Role.ORACLE)
    (tmp_path / "evaluation.json").unlink()
    again = run_evaluate(replace(settings, eval_data=str(eval_set)), said)
    assert again.columns == found.columns


def test_golden_and_proxy_work_across() -> None:
    oracle = model(False, 0)
    eval_set = written(oracle, model(False, 1), (ours(),))
    found = golden(model(True, 2), oracle, eval_set, settings=SETTINGS)
    assert set(found) == {name for name in found if name.divergence == LOG_RATIO} != set()
