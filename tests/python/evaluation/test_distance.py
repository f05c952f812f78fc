"""Golden, proxy and baseline against the definition, written out prompt by prompt in float64."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from thack.config import DataSettings, EvaluationSettings
from thack.data import Record
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError, ModelError, ThackError, UsageError
from thack.evaluation import EvalSet, Evaluator, References, evaluate
from thack.evaluation.divergences import three_divergences
from thack.evaluation.golden import golden
from thack.evaluation.proxy import proxy
from thack.evaluation.run import open_eval_set
from thack.models.batch import Batch
from thack.models.native.llama import Llama
from thack.runtime.progress import SILENT
from thack.schema.metrics import MetricName, Role
from thack.targets.keys import EVALUATION_STREAM

from .small import sharp

SETTINGS = EvaluationSettings(batch_size=5, bootstrap=200)


@pytest.fixture(scope="module")
def eval_set(cast: tuple[Llama, Llama, Llama]) -> EvalSet:
    records = [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)", response=None, response_ids=None, sample=0)
               for i in range(13)]  # fmt: skip
    oracle, teacher, _ = cast
    return EvalSet.from_records(records).with_responses(
        References(teacher=teacher, oracle=oracle), seed=3, max_new_tokens=9
    )


def by_definition(reference: Llama, model: Llama, eval_set: EvalSet, writer: Role) -> dict[str, np.ndarray]:
    """Per-prompt sums of all three divergences, one prompt at a time."""
    sums: dict[str, list[float]] = {"forward_kl": [], "reverse_kl": [], "jsd": []}
    for sequence in eval_set.sequences(writer):
        batch = Batch.of([sequence])
        with torch.no_grad():
            p, q = (torch.softmax(m(batch).double(), 1) for m in (reference, model))
        m = (p + q) / 2

        def kl(a: torch.Tensor, b: torch.Tensor) -> float:
            return float((a * (a / b).log()).sum())

        sums["forward_kl"].append(kl(p, q))
        sums["reverse_kl"].append(kl(q, p))
        sums["jsd"].append((kl(p, m) + kl(q, m)) / 2)
    return {name: np.array(values) for name, values in sums.items()}


def test_every_column_equals_its_definition(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet) -> None:
    oracle, teacher, student = cast
    found = evaluate(student, eval_set, References(teacher=teacher, oracle=oracle), settings=SETTINGS)
    expected = {
        "golden/{}/reference_sampled": by_definition(oracle, student, eval_set, Role.ORACLE),
        "proxy/{}/reference_sampled": by_definition(teacher, student, eval_set, Role.TEACHER),
        "baseline/{}/reference_sampled": by_definition(oracle, teacher, eval_set, Role.ORACLE),
        "baseline/{}/student_sampled": by_definition(oracle, teacher, eval_set, Role.TEACHER),
    }
    for pattern, sums in expected.items():
        for divergence, nats in sums.items():
            name = pattern.format(divergence)
            per_prompt = found.per_prompt[MetricName.parse(name)]
            np.testing.assert_allclose(per_prompt.nats_P, nats, rtol=2e-4, atol=1e-5, err_msg=name)
            tokens = per_prompt.tokens_P.sum()
            assert found.named()[f"{name}/token_mean"] == pytest.approx(nats.sum() / tokens, rel=1e-4)
            assert found.named()[f"{name}/sequence_sum"] == pytest.approx(nats.mean(), rel=1e-4)


def test_all_columns_are_there_with_intervals_around_them(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet) -> None:
    oracle, teacher, student = cast
    columns = evaluate(student, eval_set, References(teacher=teacher, oracle=oracle), settings=SETTINGS).named()
    columns = {name: value for name, value in columns.items() if not name.startswith("health/")}
    assert len(columns) == 3 * 3 * 2 * 2 * 3
    for name, value in columns.items():
        if not name.endswith(("/low", "/high")):
            assert 0 <= columns[f"{name}/low"] <= value <= columns[f"{name}/high"], name


def test_the_teacher_as_student_is_at_distance_zero_and_on_the_baseline(
    cast: tuple[Llama, Llama, Llama], eval_set: EvalSet
) -> None:
    oracle, teacher, _ = cast
    columns = evaluate(teacher, eval_set, References(teacher=teacher, oracle=oracle), settings=SETTINGS).named()
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        assert columns[f"proxy/{divergence}/reference_sampled/token_mean"] == pytest.approx(0, abs=1e-5)
        golden = columns[f"golden/{divergence}/reference_sampled/token_mean"]
        assert golden == columns[f"baseline/{divergence}/reference_sampled/token_mean"]


def test_evaluating_twice_gives_the_same_numbers(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet) -> None:
    oracle, teacher, student = cast
    evaluator = Evaluator(eval_set, References(teacher=teacher, oracle=oracle), SETTINGS)
    first = evaluator.evaluate(student)
    torch.manual_seed(99)
    assert evaluator.evaluate(student).columns == first.columns
    assert (
        Evaluator(eval_set, References(teacher=teacher, oracle=oracle), SETTINGS, memory_bytes=0)
        .evaluate(student)
        .columns
        == first.columns
    )


def test_train_mode_and_random_state_are_left_alone(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet) -> None:
    oracle, teacher, student = cast
    student.train()
    before = torch.random.get_rng_state()
    evaluate(student, eval_set, References(teacher=teacher, oracle=oracle), settings=SETTINGS)
    assert student.training
    assert torch.equal(before, torch.random.get_rng_state())
    student.eval()


def test_one_reference_is_enough(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet) -> None:
    _, teacher, student = cast
    columns = evaluate(student, eval_set, References(teacher=teacher), settings=SETTINGS).named()
    assert {name.split("/")[0] for name in columns} == {"proxy", "health"}
    with pytest.raises(UsageError, match="needs a teacher"):
        evaluate(student, eval_set, References(), settings=SETTINGS)


def test_models_that_did_not_write_the_evaluation_set_are_refused(
    cast: tuple[Llama, Llama, Llama], eval_set: EvalSet
) -> None:
    _, _, student = cast
    with pytest.raises(MismatchError, match=r"teacher responses were written by another model[\s\S]*given"):
        evaluate(student, eval_set, References(teacher=student), settings=SETTINGS)
    stranger = sharp(Tokenizer.train(["another text altogether"] * 3, 264), 0)  # the oracle's weights
    with pytest.raises(MismatchError, match="another tokenizer than the oracle's"):
        evaluate(student, eval_set, References(oracle=stranger), settings=SETTINGS)


def test_nan_logits_name_the_model(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet, tokenizer: Tokenizer) -> None:
    oracle, _, _ = cast
    broken = sharp(tokenizer, 5)
    with torch.no_grad():
        broken.lm_head.weight[3] = float("nan")
    settings = EvaluationSettings(batch_size=5, bootstrap=10, student_samples=False)
    with pytest.raises(ModelError, match="the student gives NaN logits"):
        evaluate(broken, eval_set, References(oracle=oracle), settings=settings)


@pytest.mark.parametrize("broken", ["oracle", "teacher"])
def test_nan_logits_of_a_reference_are_not_the_students(
    cast: tuple[Llama, Llama, Llama], tokenizer: Tokenizer, broken: str
) -> None:
    """The baseline measures the teacher in the student's place: its NaN is still the teacher's."""
    models = {"oracle": sharp(tokenizer, 5), "teacher": sharp(tokenizer, 6)}
    records = [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)") for i in range(3)]
    references = References(oracle=models["oracle"], teacher=models["teacher"])
    eval_set = EvalSet.from_records(records).with_responses(references, max_new_tokens=4)
    settings = EvaluationSettings(batch_size=5, bootstrap=10, student_samples=False)
    evaluator = Evaluator(eval_set, references, settings)
    evaluator.evaluate(cast[2])  # from here on the references' own responses are in memory
    evaluator._baseline = None
    with torch.no_grad():
        models[broken].lm_head.weight[3] = float("nan")
    with pytest.raises(ModelError, match=f"the {broken} gives NaN logits"):
        evaluator.evaluate(cast[2])


def test_golden_and_proxy_are_one_distance_with_two_references(
    cast: tuple[Llama, Llama, Llama], eval_set: EvalSet
) -> None:
    oracle, teacher, student = cast
    both = evaluate(student, eval_set, References(teacher=teacher, oracle=oracle), settings=SETTINGS).columns
    for found, role in ((golden(student, oracle, eval_set, settings=SETTINGS), Role.ORACLE),
                        (proxy(student, teacher, eval_set, settings=SETTINGS), Role.TEACHER)):  # fmt: skip
        fixed = {name: value for name, value in found.items() if name.responses == "reference_sampled"}
        assert fixed and fixed == {name: both[name] for name in fixed}
        assert {name.role for name in found} == {role} and not any(name.baseline for name in found)


def test_the_students_responses_have_random_numbers_of_their_own(
    cast: tuple[Llama, Llama, Llama], eval_set: EvalSet
) -> None:
    """Each writer of the evaluation set draws from a stream of its own, numbered from 0; so does the student."""
    assert len([role for role in Role if role is not Role.HUMAN]) == EVALUATION_STREAM
    oracle, _, _ = cast
    same = References(oracle=oracle, teacher=oracle)
    written = EvalSet(ids=eval_set.ids, texts=eval_set.texts).with_responses(same, max_new_tokens=9)
    assert any(
        not np.array_equal(*pair)
        for pair in zip(written.responses[Role.ORACLE], written.responses[Role.TEACHER], strict=True)
    )


def test_impossible_outcomes_are_exact() -> None:
    log_p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
    log_q = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.5, 0.0]]).log()
    nats = three_divergences(log_p, log_q)
    assert nats[0, 0].item() == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)
    assert nats[1, 0].item() == pytest.approx(np.log(2))
    assert nats[1, 1].item() == float("inf")  # the student puts mass where the reference has none
    assert nats[1, 2].item() == pytest.approx(0.2157615, rel=1e-5)
    assert torch.isfinite(nats[:, 2]).all()


def test_an_evaluation_set_comes_back_as_it_was_and_tampering_is_seen(eval_set: EvalSet, tmp_path: Path) -> None:
    eval_set.save(tmp_path / "eval_set")
    back = EvalSet.load(tmp_path / "eval_set")
    assert back.fingerprint() == eval_set.fingerprint()
    assert back.ids == eval_set.ids and back.texts == eval_set.texts
    for writer in (Role.ORACLE, Role.TEACHER):
        for ours, theirs in zip(eval_set.responses[writer], back.responses[writer], strict=True):
            assert np.array_equal(ours, theirs) and theirs.dtype == np.int32
    path = tmp_path / "eval_set" / "prompts.jsonl"
    whole = path.read_text()
    for changed in (whole.replace('"p3"', '"p4"'), whole.replace('"id"', '"ie"'), whole[:-20], "[1]\n", ""):
        path.write_text(changed)
        with pytest.raises(DataError, match="changed after it was frozen"):
            EvalSet.load(tmp_path / "eval_set")
    with pytest.raises(DataError, match="no evaluation set in"):
        EvalSet.load(tmp_path / "nowhere")


def test_a_full_disk_leaves_no_evaluation_set_and_room_makes_the_same_one(
    cast: tuple[Llama, Llama, Llama], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does an empty directory of its name stop the next start, as one that was killed may leave."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "def a(x)"}\n{"prompt": "def b(x)"}\n')
    oracle, teacher, _ = cast

    def opened(beside: Path) -> EvalSet:
        references, data = References(teacher=teacher, oracle=oracle), DataSettings(max_response_tokens=9)
        path = tmp_path / "prompts.jsonl"
        return open_eval_set(path, beside, references, data=data, seed=0, progress=SILENT)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    beside = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(ThackError, match="no space left") as caught:
        patch.setattr(os, "rename", full)
        opened(beside)
    assert "free space and run the same command again" in str(caught.value.hint)
    assert [path.suffix for path in beside.iterdir()] == [".jsonl"], "the responses so far"
    frozen = next(beside.iterdir()).name.removeprefix(".").removesuffix(".partial.jsonl")
    (beside / frozen).mkdir()
    assert opened(beside).fingerprint() == opened(tmp_path / "other").fingerprint()
    assert [path.name for path in beside.iterdir()] == [frozen]


def test_responses_are_the_same_for_the_same_seed_only(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet) -> None:
    oracle, teacher, _ = cast
    plain = EvalSet(ids=eval_set.ids, texts=eval_set.texts)
    again = plain.with_responses(References(teacher=teacher, oracle=oracle), seed=3, max_new_tokens=9)
    other = plain.with_responses(References(teacher=teacher, oracle=oracle), seed=4, max_new_tokens=9)
    assert again.fingerprint() == eval_set.fingerprint() != other.fingerprint()


def test_an_evaluation_set_keeps_one_entry_per_prompt_and_drops_what_is_too_long(
    cast: tuple[Llama, Llama, Llama],
) -> None:
    texts = ["def a(x)", "def b(x)", "def a(x)", "long " * 40]
    records = [Record(prompt_id=t[:6], prompt=t, response=None, response_ids=None, sample=0) for t in texts]
    eval_set = EvalSet.from_records(records)
    assert eval_set.ids == ("def a(", "def b(", "long l")
    written = eval_set.with_responses(References(teacher=cast[1]), max_new_tokens=4, max_prompt_tokens=20)
    assert written.ids == ("def a(", "def b(") and written.origin.dropped_prompts == 1
