"""Teacher, student and data that do not go together: each check, from directories to lines, exit code and manifest."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from thack import api
from thack.config import DataSettings, DistillSettings, DoctorSettings, SourceSettings
from thack.errors import UsageError
from thack.reading import read_json
from thack.runtime.progress import SILENT, Task
from thack.schema.preflight import Finding, Preflight
from thack.schema.run import Manifest
from thack.training.preflight.findings import findings

from .chats import CHATML, save_chats, save_model

OTHER = CHATML.replace("\n{{ m.content }}", "\n\n{{ m.content }}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    save_chats(root / "chats.jsonl")
    save_model(root / "teacher", data=root / "chats.jsonl")
    save_model(root / "student", seed=1)
    return root


def settings(world: Path, student: Path | str = "student", **changes: object) -> DoctorSettings:
    found = DoctorSettings(
        teacher=str(world / "teacher"),
        student=str(world / student),
        data=DataSettings(path=str(world / "chats.jsonl")),
        device="cpu",
        dtype="float32",
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def named(found: Preflight) -> dict[str, Finding]:
    return {finding.name: finding for finding in found.findings}


def test_what_goes_together(world: Path) -> None:
    found = api.preflight(settings(world))
    assert {finding.state for finding in found.findings} == {"ok"}
    assert (found.compared, found.differing, found.difference) == (12, 0, None)
    assert found.data is not None and found.data.sequences == 12
    # "say red" of 12: <|im_start|>user\nsay red<|im_end|>\n<|im_start|>assistant\n, and "red, red<|im_end|>"
    sizes = [len(word) for word in ("red", "green", "blue", "black", "white", "grey", "pink", "brown", "gold")]
    sizes += [len(word) for word in ("silver", "teal", "plum")]
    assert found.data.trained_tokens == sum(2 * size + 3 for size in sizes)
    assert found.data.prompt_tokens == sum(1 + len("user\nsay ") + size + 2 + 1 + len("assistant\n") for size in sizes)
    assert Preflight(special=found.special).dump()["special"] == found.dump()["special"]


def test_a_template_that_differs(world: Path) -> None:
    save_model(world / "other", template=OTHER, seed=1)
    found = api.preflight(settings(world, "other"))
    line = named(found)["chat template"]
    assert line.state == "wrong" and f"data.chat_template = {world}/teacher/chat_template.jinja" in line.advice
    difference = found.difference
    assert difference is not None and found.differing == 12
    # the teacher: <|im_start|> u s e r \n s …, the student: <|im_start|> u s e r \n \n s …
    assert difference.position == 6
    assert difference.before == "e r \\n"
    assert (difference.teacher, difference.student) == ("s a y   r", "\\n s a y  ")
    advised = DataSettings(path=str(world / "chats.jsonl"), chat_template=f"{world}/teacher/chat_template.jinja")
    assert not api.preflight(settings(world, "other", data=advised)).wrong, "what is advised helps"


def test_a_student_without_a_template(world: Path) -> None:
    save_model(world / "base", template="", eos="<|endoftext|>", seed=1)
    found = named(api.preflight(settings(world, "base")))
    assert found["chat template"].state == "note" and found["chat template"].value == "the student has none"
    assert found["student's tokens"].value.startswith("BOS none · EOS <|endoftext|> 260 · no chat template")
    assert found["ends"].state == "wrong" and found["ends"].advice == "say which: `data.end = <|im_end|>`"
    advised = DataSettings(path=str(world / "chats.jsonl"), end="<|im_end|>")
    assert not api.preflight(settings(world, "base", data=advised)).wrong


def test_an_end_that_differs(world: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"prompt": f"say {i}", "response": f"{i} it is"}) + "\n" for i in range(3)))
    save_model(tmp_path / "other", template="", eos="<|endoftext|>", seed=1)
    data = DataSettings(path=str(pairs))
    found = api.preflight(settings(world, tmp_path / "other", data=data, teacher=str(world / "teacher")))
    lines = named(found)
    assert lines["ends"].state == "wrong" and "<|im_end|> 259 for the teacher, <|endoftext|> 260" in lines["ends"].value
    assert lines["encoding"].state == "wrong" and found.difference is not None
    assert (found.difference.teacher, found.difference.student) == ("<|im_end|>", "<|endoftext|>")
    ended = replace(data, end="<|im_end|>")
    lines = named(api.preflight(settings(world, tmp_path / "other", data=ended)))
    assert lines["ends"].state == "ok" and lines["encoding"].state == "ok"


def test_padded_and_missing_ids(world: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "padded", rows=272, seed=1)
    line = named(api.preflight(settings(world, tmp_path / "padded")))["padded ids"]
    assert (
        line.state == "ok" and "teacher 261, student 272; the tokenizer has 261 ids; padded: student 11" in line.value
    )
    short = Preflight(rows={"teacher": 300, "student": 260}, tokenizer_ids=261)
    assert [f.state for f in findings(short, teacher="t", chat=False)] == ["wrong"]


def test_another_vocabulary(world: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", seed=1)
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace('"content": "<|endoftext|>"', '"content": "<|fim|>"'))
    found = api.preflight(settings(world, tmp_path / "other"))
    assert "<|endoftext|>" in found.vocabulary[0]
    assert "the loss compares cells: 100.0%" in named(found)["another tokenizer"].value
    assert found.fit is None, "ids that mean something else have no likelihood"


def test_responses_of_other_prompts(world: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (world / "chats.jsonl").read_text().splitlines()]
    answers = [row["messages"][1] for row in rows]
    path = tmp_path / "mixed.jsonl"
    mixed = [{"messages": [row["messages"][0], answers[i - 5]]} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in mixed))
    assert named(api.preflight(settings(world, data=DataSettings(path=str(path)))))["shuffled"].state == "wrong"


def test_truncation_and_prompts_alone(world: Path, tmp_path: Path) -> None:
    cut = DataSettings(path=str(world / "chats.jsonl"), max_response_tokens=10)
    found = api.preflight(settings(world, data=cut))
    line = named(found)["truncated"]
    assert found.data is not None and found.data.truncated == 11  # all but "red, red" and its end
    assert line.state == "note" and "data.max_response_tokens" in line.advice
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    alone = api.preflight(settings(world, data=DataSettings(path=str(prompts))))
    assert alone.fit is None and named(alone)["trained tokens"].value == "none: 2 prompts without responses"


def test_what_is_not_given_is_not_checked(world: Path) -> None:
    only = api.preflight(replace(settings(world), student=""))
    assert only.fit is not None and set(only.special) == {"teacher"} and "ends" not in named(only)
    only = api.preflight(replace(settings(world), teacher=""))
    assert only.fit is None and only.data is not None and set(only.special) == {"student"}
    with pytest.raises(UsageError, match="needs data and at least one model"):
        api.preflight(DoctorSettings(teacher="t"))


class Notes:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def task(self, name: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        return SILENT.task(name, total, unit)

    def note(self, message: str) -> None:
        self.lines.append(message)


def distill(world: Path, out: Path, **changes: object) -> tuple[Notes, Manifest]:
    notes = Notes()
    given = DistillSettings(
        out=out,
        teacher=str(world / "teacher"),
        student=str(world / "student"),
        data=DataSettings(path=str(world / "chats.jsonl")),
        steps=1,
        device="cpu",
        dtype="float32",
    )
    run = api.distill(replace(given, **changes), progress=notes)  # type: ignore[arg-type]
    return notes, Manifest.parse(read_json(run.path / "manifest.json"))


def test_a_run_records_what_doctor_finds(world: Path, tmp_path: Path) -> None:
    notes, manifest = distill(world, tmp_path / "run")
    found = api.preflight(settings(world, sample=8)).numbers()
    assert manifest.facts.preflight == pytest.approx(found)
    assert not any(line.startswith("warning") for line in notes.lines)


def test_a_run_warns_of_a_template_that_differs(world: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", template=OTHER, seed=1)
    notes, manifest = distill(world, tmp_path / "run", student=str(tmp_path / "other"))
    assert manifest.facts.preflight["records_differing"] == 8
    assert any(line.startswith("warning: chat template: 8 of 8 records differ") for line in notes.lines)


def test_newly_sampled_responses_are_not_scored(world: Path, tmp_path: Path) -> None:
    data = DataSettings(path=str(world / "chats.jsonl"), max_response_tokens=4)
    _, manifest = distill(world, tmp_path / "run", source=SourceSettings(kind="online-student"), data=data)
    assert not any(name.startswith("teacher_nll") for name in manifest.facts.preflight)


def test_a_chat_that_both_templates_refuse_is_not_called_the_same(world: Path, tmp_path: Path) -> None:
    refusing = CHATML.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
    )
    for name in ("teacher", "student"):
        save_model(tmp_path / name, template=refusing)
    save_chats(tmp_path / "chats.jsonl")
    with (tmp_path / "chats.jsonl").open("a") as file:
        turns = [{"role": role, "content": "hi"} for role in ("system", "user", "assistant")]
        file.write(json.dumps({"messages": turns}) + "\n")
    found = api.preflight(settings(tmp_path, data=DataSettings(path=str(tmp_path / "chats.jsonl"), on_bad_line="skip")))
    assert (found.compared, found.differing) == (12, 0)
