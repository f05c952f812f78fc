"""`thack doctor` on a real chat model: its own chats, and a base student that has its ids but not its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import thack
from thack.config import ArchitectureSettings
from thack.data.tokenizer import Tokenizer
from thack.models.load import new_decoder

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def student(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder with the teacher's ids, another EOS and no chat template, as base models come."""
    directory = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer.load(smollm2)
    settings = ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2, max_positions=512)
    new_decoder(settings, tokenizer, 0).save(directory)
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path := directory / name).is_file():
            config = json.loads(path.read_text())
            path.write_text(json.dumps(config | {"eos_token": "<|endoftext|>", "chat_template": None}))
    (directory / "generation_config.json").unlink()
    config = json.loads((directory / "config.json").read_text())
    config["eos_token_id"] = 0
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers that a chat model finds likely, to four questions."""
    facts = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"What is the capital of {country}?"},
                        {"role": "assistant", "content": f"The capital of {country} is {city}."},
                    ]
                }
            )
            + "\n"
            for country, city in facts.items()
        )
    )
    return path


def test_a_base_student_beside_its_instruct_teacher(smollm2: Path, student: Path, questions: Path) -> None:
    data = thack.DataSettings(path=str(questions))
    settings = thack.DoctorSettings(
        teacher=str(smollm2), student=str(student), data=data, device="cpu", dtype="float32"
    )
    found = thack.preflight(settings)
    states = {finding.name: finding.state for finding in found.findings}
    assert states["vocabulary"] == states["padded ids"] == "ok"
    assert states["chat template"] == "note" and states["ends"] == "wrong"
    assert "data.end = <|im_end|>" in next(f.advice for f in found.findings if f.name == "ends")
    assert found.special["teacher"].eos.startswith("<|im_end|> ")
    assert found.special["student"].eos.startswith("<|endoftext|> ")
    fit = found.fit
    assert fit is not None and states["teacher NLL"] == states["shuffled"] == "ok"
    assert fit.shifts["0"] < 1 < 5 < min(fit.shifts["-1"], fit.shifts["+1"])
    assert fit.shuffled is not None and fit.shuffled > fit.matched + 0.5
