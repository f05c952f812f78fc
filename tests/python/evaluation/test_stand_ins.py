"""Golden without an oracle: a judge in its place, or what people wrote; columns and reasons say which it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from thack.config import EvaluationSettings
from thack.data import Conversation, Record
from thack.data.tokenizer import Tokenizer
from thack.detection import Curves, verdict
from thack.errors import DataError, MismatchError, UsageError
from thack.evaluation import EvalSet, Evaluator, References, distance, evaluate
from thack.models.batch import Batch
from thack.models.native.llama import Llama
from thack.reporting.prose import reasons
from thack.runtime.runlog import RunLog
from thack.schema.metrics import MetricName, Role

from .small import sharp

SETTINGS = EvaluationSettings(batch_size=5, bootstrap=100, student_samples=False, health=False)
READOUT = "forward_kl/reference_sampled/token_mean"
LIKELIHOOD = "negative_log_likelihood/reference_sampled"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    texts = [f"reads file {i}" if i != 3 else None for i in range(8)]
    return [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)", response=text) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def eval_set(cast: tuple[Llama, Llama, Llama], records: list[Record]) -> EvalSet:
    judge, teacher, _ = cast
    return EvalSet.from_records(records).with_responses(
        References(teacher=teacher, judge=judge, human=True), max_new_tokens=9
    )


def test_a_judge_is_an_oracle_by_another_name(cast: tuple[Llama, Llama, Llama], records: list[Record]) -> None:
    judge, teacher, student = cast
    plain = EvalSet.from_records(records)
    named = plain.with_responses(References(judge=judge), max_new_tokens=9)
    as_oracle = plain.with_responses(References(oracle=judge), max_new_tokens=9)
    by_name = evaluate(student, named, References(judge=judge), settings=SETTINGS).named()
    by_role = evaluate(student, as_oracle, References(oracle=judge), settings=SETTINGS).named()
    assert {name.replace("judge/", "golden/"): value for name, value in by_name.items()} == by_role
    name = MetricName(role=Role.JUDGE)
    assert distance(student, judge, named, role=Role.JUDGE, settings=SETTINGS)[name] == by_name[str(name)]
    pair = plain.with_responses(References(teacher=teacher, judge=judge), max_new_tokens=9)
    both = evaluate(student, pair, References(teacher=teacher, judge=judge), settings=SETTINGS)
    assert f"judge_baseline/{READOUT}" in both.named() and f"proxy/{READOUT}" in both.named()


def test_human_likelihood_equals_its_definition(cast: tuple[Llama, Llama, Llama], eval_set: EvalSet) -> None:
    judge, teacher, student = cast
    found = Evaluator(eval_set, References(teacher=teacher, judge=judge), SETTINGS).evaluate(student)
    for name, model in (("human", student), ("human_baseline", teacher)):
        nats = []
        for sequence in eval_set.sequences(Role.HUMAN):
            batch = Batch.of([sequence])
            with torch.no_grad():
                log_q = torch.log_softmax(model(batch).double(), 1)
            nats.append(-float(log_q.gather(1, batch.labels_N[:, None]).sum()))
        per_prompt = found.per_prompt[MetricName.parse(f"{name}/{LIKELIHOOD}")]
        np.testing.assert_allclose(per_prompt.nats_P, nats, rtol=1e-4)
        assert found.named()[f"{name}/{LIKELIHOOD}/token_mean"] == pytest.approx(
            sum(nats) / per_prompt.tokens_P.sum(), rel=1e-4
        )


def test_prompts_without_a_human_response_leave_the_evaluation_set(eval_set: EvalSet, tmp_path: Path) -> None:
    assert "p3" not in eval_set.ids and eval_set.origin.dropped_without_response == 1
    assert all(ids[-1] == 1 or len(ids) == 9 for ids in eval_set.responses[Role.HUMAN])
    eval_set.save(tmp_path / "eval_set")
    assert EvalSet.load(tmp_path / "eval_set").fingerprint() == eval_set.fingerprint()


def test_people_alone_are_enough(cast: tuple[Llama, Llama, Llama], records: list[Record], tokenizer: Tokenizer) -> None:
    eval_set = EvalSet.from_records(records).with_responses(References(human=True), tokenizer=tokenizer)
    assert set(evaluate(cast[2], eval_set, References(human=True), settings=SETTINGS).per_prompt) == {
        MetricName.parse(f"human/{LIKELIHOOD}")
    }
    with pytest.raises(UsageError, match="no tokenizer is known here"):
        EvalSet.from_records(records).with_responses(References(human=True))
    with pytest.raises(DataError, match="has a response that people wrote"):
        EvalSet.from_records(records[3:4]).with_responses(References(human=True), tokenizer=tokenizer)


def test_a_judge_that_did_not_write_the_evaluation_set_is_refused(
    cast: tuple[Llama, Llama, Llama], eval_set: EvalSet
) -> None:
    with pytest.raises(MismatchError, match="judge responses were written by another model"):
        evaluate(cast[2], eval_set, References(judge=cast[2]), settings=SETTINGS)
    with pytest.raises(UsageError, match="no responses of the oracle"):
        evaluate(cast[2], eval_set, References(oracle=cast[0]), settings=SETTINGS)


def test_conversations_go_through_the_chat_template(tokenizer: Tokenizer, cast: tuple[Llama, Llama, Llama]) -> None:
    conversation = Conversation(messages=({"role": "user", "content": "read"},))
    record = Record(prompt_id="a", prompt='[{"role": "user"}]', conversation=conversation)
    talking = Tokenizer.train(["def read(path): read the file at path"] * 3, 264)
    talking = talking.with_template("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    model = sharp(talking, 0)
    eval_set = EvalSet.from_records([record]).with_responses(References(teacher=model), max_new_tokens=3)
    assert talking.decode(eval_set.prompts[0]) == "<read>"


class TestVerdict:
    def run(self, path: Path, golden: str, line: str) -> Path:
        """A run whose stand-in for golden falls and rises by a tenth, while the proxy falls."""
        with RunLog(path / "metrics.jsonl") as log:
            for i in range(12):
                value = 2.0 - 0.05 * i if i < 6 else 1.75 + 0.05 * (i - 5)
                row = {f"proxy/{READOUT}": 1.0 / (i + 1), golden: value, line: 1.6}
                log.append({"event": "evaluation", "step": 50 * (i + 1), **row})
        return path

    @pytest.mark.parametrize(
        ("golden", "line", "words"),
        [
            (f"judge/{READOUT}", f"judge_baseline/{READOUT}", ["distance to the judge", "KL(judge‖teacher) = 1.6"]),
            (
                f"human/{LIKELIHOOD}/token_mean",
                f"human_baseline/{LIKELIHOOD}/token_mean",
                ["likelihood of human references", "entropy of human text", "teacher's own likelihood = 1.6"],
            ),
        ],
    )
    def test_it_is_read_from_the_stand_in_and_says_so(
        self, tmp_path: Path, golden: str, line: str, words: list[str]
    ) -> None:
        path = self.run(tmp_path, golden, line)
        for curves in (Curves.from_run(path), Curves.from_log(path / "metrics.jsonl")):
            found = verdict(curves)
            assert found.name == "hacking" and found.golden is not None
            assert found.golden.column == golden and found.baseline == 1.6
            told = " ".join(reasons(found))
            assert all(word in told for word in ["there is no oracle", *words])

    def test_the_oracle_wins(self, tmp_path: Path) -> None:
        with RunLog(tmp_path / "metrics.jsonl") as log:
            for i in range(8):
                row = {f"{name}/{READOUT}": 1.0 for name in ("golden", "judge", "judge_baseline", "proxy")}
                log.append({"event": "evaluation", "step": 40 * (i + 1), **row})
        curves = Curves.from_run(tmp_path)
        assert curves.column_of["golden"].startswith("golden/")
        assert "baseline" not in curves.column_of
