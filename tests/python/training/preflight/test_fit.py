"""The teacher's fit to the responses against float64 from the definition; rows that are off by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.errors import ModelError
from thack.models.batch import Batch
from thack.models.precision import FLOAT32, Precision
from thack.schema.preflight import Finding, Preflight, TeacherFit
from thack.targets.projected import teacher_logits
from thack.training.preflight.findings import findings
from thack.training.preflight.fit import teacher_fit

from ..small import model, sequences, tokenizer

WIDTH = 270  # six rows more than the tokenizer has ids


@dataclass
class Scripted:
    """A teacher that follows a rule: from prompt and response to logits [R, V]."""

    rule: Callable[[np.ndarray, np.ndarray], np.ndarray]
    max_positions: int = 64
    tokenizer: object = field(default_factory=tokenizer)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    training: bool = False

    head_form: None = None

    def head(self) -> torch.nn.Linear:
        return torch.nn.Linear(1, 1)

    def eval(self) -> Scripted:
        return self

    def train(self, mode: bool = True) -> Scripted:
        return self

    def __call__(self, batch: Batch, *, project: bool = True) -> Tensor:
        rows = [self.rule(p, r) for p, r in zip(batch.prompts, batch.responses, strict=True)]
        return torch.from_numpy(np.concatenate(rows)).float()


def knows(prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Certain of the ids that its prompt asks for: the prompt repeated."""
    logits = np.zeros((len(response), WIDTH))
    logits[np.arange(len(response)), np.resize(prompt, len(response))] = 9.0
    return logits


def echoes(count: int = 10) -> list[TokenSequence]:
    """Responses that repeat their prompts."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        prompt = rng.permutation(200)[:7].astype(np.int32)
        found.append(TokenSequence(example=i, prompt_id=str(i), prompt_ids=prompt, response_ids=np.resize(prompt, 12)))
    return found


def fit(rule: Callable[[np.ndarray, np.ndarray], np.ndarray], data: list[TokenSequence] | None = None) -> TeacherFit:
    found = teacher_fit(Scripted(rule), echoes() if data is None else data, FLOAT32)  # type: ignore[arg-type]
    assert found is not None
    return found


def lines(found: TeacherFit) -> dict[str, Finding]:
    return {line.name: line for line in findings(Preflight(fit=found, tokenizer_ids=264), teacher="t", chat=False)}


def test_a_bfloat16_teachers_logits_are_not_rounded() -> None:
    """As a capture and a live teacher compute them: the product of the head in float32."""
    teacher = model(seed=3)
    data = [max(sequences(6), key=lambda s: len(s.response_ids))]
    halved = Precision(dtype=torch.bfloat16, reason="test")
    found = teacher_fit(teacher, data, halved)
    assert found is not None
    batch = Batch.of(data, teacher.device)
    logits_NV = teacher_logits(teacher, batch, halved)
    places = range(len(batch.labels_N))

    def nll(values_NV: Tensor) -> float:
        return float(-values_NV.log_softmax(1)[places, batch.labels_N.long()].mean())

    assert found.matched == pytest.approx(nll(logits_NV), abs=1e-6)
    assert found.matched != pytest.approx(nll(logits_NV.bfloat16().float()), abs=1e-6)


def test_every_number_is_that_of_its_definition() -> None:
    teacher, data = model(seed=3), sequences(6)
    found = teacher_fit(teacher, data, FLOAT32)
    assert found is not None

    def scores(prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
        """float64 log-probs of one sequence."""
        one = TokenSequence(example=0, prompt_id="x", prompt_ids=prompt, response_ids=response)
        with torch.no_grad():
            return torch.log_softmax(teacher(Batch.of([one])).double(), dim=1).numpy()

    shifted: dict[int, list[float]] = {-1: [], 0: [], 1: []}
    matched, shuffled = [], []
    for i, s in enumerate(data):
        ids, own = s.response_ids, scores(s.prompt_ids, s.response_ids)
        matched.append(np.mean([-own[t, ids[t]] for t in range(len(ids))]))
        other = scores(data[(i + 1) % len(data)].prompt_ids, ids)
        shuffled.append(np.mean([-other[t, ids[t]] for t in range(len(ids))]))
        for shift, values in shifted.items():
            values += [-own[t, ids[t + shift]] for t in range(1, len(ids) - 1)]
    assert {int(shift): value for shift, value in found.shifts.items()} == pytest.approx(
        {shift: np.mean(values) for shift, values in shifted.items()}, abs=1e-5
    )
    assert found.matched == pytest.approx(np.mean(matched), abs=1e-5)
    assert found.shuffled == pytest.approx(np.mean(shuffled), abs=1e-5)
    assert (found.sequences, found.tokens) == (6, sum(len(s.response_ids) for s in data))


def test_rows_in_place_and_prompts_that_count() -> None:
    found = lines(fit(knows))
    assert {name: line.state for name, line in found.items()} == {"teacher NLL": "ok", "shuffled": "ok"}


@pytest.mark.parametrize(("shift", "best"), [(1, "-1"), (-1, "+1")])
def test_rows_that_are_off_by_one(shift: int, best: str) -> None:
    found = fit(lambda prompt, response: np.roll(knows(prompt, response), shift, axis=0))
    assert found.best_shift == best
    assert lines(found)["teacher NLL"].state == "wrong"


def test_a_teacher_that_does_not_read_its_prompt() -> None:
    def ignores(prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
        return knows(response, response)

    found = fit(ignores)
    assert found.shuffled == pytest.approx(found.matched)
    assert lines(found)["shuffled"].state == "wrong"
    assert lines(fit(ignores, echoes(4)))["shuffled"].state == "note", "four sequences prove nothing"


def test_a_teacher_that_hardly_knows_the_data_proves_nothing() -> None:
    found = fit(lambda prompt, response: np.zeros((len(response), WIDTH)))
    assert found.entropy == pytest.approx(np.log(WIDTH))
    line = lines(found)["shuffled"]
    assert line.state == "note" and line.value.endswith("the teacher is unsure")


def test_data_whose_responses_belong_to_other_prompts() -> None:
    data = echoes()
    mixed = [replace(s, response_ids=data[i - 3].response_ids) for i, s in enumerate(data)]
    assert lines(fit(knows, mixed))["shuffled"].state == "wrong"


def test_one_prompt_alone_cannot_be_shuffled() -> None:
    same = [replace(s, prompt_ids=echoes()[0].prompt_ids) for s in echoes(5)]
    found = fit(knows, same)
    assert found.shuffled is None
    assert "shuffled" not in lines(found)


def test_mass_on_ids_that_the_tokenizer_does_not_have() -> None:
    def padded(prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
        logits = np.full((len(response), WIDTH), -np.inf)
        logits[:, :4] = logits[:, -4:] = 0.0  # half of the mass on ids 266 to 269, of 264
        return logits

    found = fit(padded)
    assert found.padded_mass == pytest.approx(0.5)
    assert all(np.isfinite(value) for value in Preflight(fit=found).numbers().values())
    facts = Preflight(fit=found, rows={"teacher": WIDTH}, tokenizer_ids=264)
    (line, *_) = findings(facts, teacher="t", chat=False)
    assert (line.name, line.state) == ("padded ids", "note") and "gives them 50.0%" in line.value


def test_long_sequences_are_cut_to_the_models_positions() -> None:
    long = [
        replace(s, response_ids=np.resize(s.prompt_ids, 500), prompt_ids=np.resize(s.prompt_ids, 500))
        for s in echoes(3)
    ]
    sizes: list[tuple[int, int]] = []

    def rule(prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
        sizes.append((len(prompt), len(response)))
        return knows(prompt, response)

    fit(rule, long)
    assert set(sizes) == {(32, 32)}


def test_nothing_to_score_and_nothing_that_is_a_number() -> None:
    short = [replace(s, response_ids=s.response_ids[:2]) for s in echoes(3)]
    assert teacher_fit(Scripted(knows), short, FLOAT32) is None  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="hold NaN"):
        fit(lambda prompt, response: np.full((len(response), WIDTH), np.nan))


def test_random_state_and_mode_are_left_alone() -> None:
    teacher = model(dropout=0.5)
    teacher.train()
    before = torch.get_rng_state()
    teacher_fit(teacher, sequences(4), FLOAT32)
    assert torch.equal(torch.get_rng_state(), before) and teacher.training
