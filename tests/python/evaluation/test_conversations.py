"""An evaluation set of conversations: people's answers end as the template says, refused ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.small import ANSWER, CHATML, END_ID, USER, byte_ids, write_rows, write_tokenizer
from thack.config import ArchitectureSettings, DataSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError
from thack.evaluation import EvalSet, References
from thack.evaluation.run import open_eval_set
from thack.models.load import new_decoder
from thack.runtime.progress import SILENT
from thack.schema.metrics import Role

REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
BAD = {"messages": [{"role": "system", "content": "s"}, USER, ANSWER]}


@pytest.fixture
def references(tmp_path: Path) -> References:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "t", template=REFUSING))
    shape = ArchitectureSettings(hidden_size=16, num_heads=2, max_positions=64)
    return References(teacher=new_decoder(shape, tokenizer, seed=0), human=True)


def test_peoples_answers_end_with_the_end_of_turn(references: References, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", {"messages": [USER, ANSWER]}, {"messages": [USER | {"content": "yo"}]})
    found = EvalSet.from_jsonl(path).with_responses(references, max_new_tokens=8)
    assert [ids.tolist() for ids in found.responses[Role.HUMAN]] == [[*byte_ids("ok"), END_ID]]
    assert found.origin.dropped_without_response == 1


def test_a_refused_conversation_is_named_or_skipped(references: References, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", {"messages": [USER, ANSWER]}, BAD)
    data = DataSettings(max_response_tokens=4)
    with pytest.raises(DataError, match=r"d\.jsonl:2: the chat template refuses .*no system"):
        open_eval_set(path, tmp_path, references, data=data, seed=0, progress=SILENT)
    skipping = DataSettings(max_response_tokens=4, on_bad_line="skip")
    assert len(open_eval_set(path, tmp_path, references, data=skipping, seed=0, progress=SILENT)) == 1


def test_other_template_variables_are_another_set(references: References, tmp_path: Path) -> None:
    """A set is found again by everything that its prompts depend on."""
    from thack.data.date import follow_settings

    path = write_rows(tmp_path / "d.jsonl", {"messages": [USER, ANSWER]})
    data = DataSettings(max_response_tokens=4)
    found = []
    for variables in ("", '{"a": 1}', ""):
        teacher = references.teacher
        assert teacher is not None
        follow_settings(teacher, DataSettings(template_variables=variables), tmp_path)
        open_eval_set(path, tmp_path, references, data=data, seed=0, progress=SILENT)
        found.append(len(list(tmp_path.glob("eval_set-*"))))
    assert found == [1, 2, 2]
