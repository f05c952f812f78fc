"""The model card beside a student: facts, verdict, how to open it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thack import api
from thack.errors import DataError, ThackError, UsageError
from thack.reporting import model_card, write_card
from thack.reporting.markdown import escaped
from thack.reporting.prose import reasons
from thack.runtime.runlog import RunLog
from thack.schema.run import Manifest, RunFacts

READOUT = "forward_kl/reference_sampled/token_mean"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose golden starts to rise, with a student from the hub."""
    path = tmp_path / "mine"
    (path / "model").mkdir(parents=True)
    (path / "model" / "config.json").write_text('{"is_encoder_decoder": true}')
    (path / "config.toml").write_text('teacher = "./big"\n[loss]\ndivergence = "jsd"\n[source]\nkind = "offline"\n')
    facts = RunFacts(
        models={"student": "sha256:1", "teacher": "sha256:2"},
        origins={"student": "org/small@0123", "teacher": "./big"},
        sequences=7,
        precision={"teacher": "bfloat16 (asked for)"},
    )
    (path / "manifest.json").write_text(json.dumps(Manifest(command="distill", facts=facts).dump()))
    with RunLog(path / "metrics.jsonl") as log:
        for i in range(12):
            golden = 2.0 - 0.05 * i if i < 6 else 1.75 + 0.05 * (i - 5)
            row = {f"proxy/{READOUT}": (i + 1) ** -0.5, f"golden/{READOUT}": golden}
            log.append({"event": "evaluation", "step": 50 * (i + 1), **row})
    return path


def test_before_and_after_the_verdict(run: Path) -> None:
    card = write_card(run)
    assert card is not None
    text = card.read_text()
    assert text.startswith("---\nlibrary_name: transformers\n") and 'base_model: "org/small"\n' in text
    for word in (
        "# mine",
        "`./big`",
        "- loss: JSD (β = 0.5)",
        "offline, 7 sequences",
        "teacher: bfloat16 (asked for)",
        "Not judged yet",
        "AutoModelForSeq2SeqLM",
    ):
        assert word in text
    found = api.verdict(run)
    text = card.read_text()
    assert found.name == "hacking" and f"**{found.headline}**: the student keeps learning its teacher" in text
    assert all(f"- {escaped(reason)}" in text for reason in reasons(found))
    assert "Not judged yet" not in text


def test_a_suspicion_without_an_oracle(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text(
        "\n".join(json.dumps({k: v for k, v in row.items() if not k.startswith("golden")}) for row in rows) + "\n"
    )
    found = api.verdict(run)
    assert f"**{found.headline}**" in (run / "model" / "README.md").read_text()


def test_runs_of_little(tmp_path: Path) -> None:
    assert write_card(tmp_path) is None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "Trained with thack." in model_card(tmp_path)
    facts = RunFacts(models={"student": "sha256:1"}, sequences=7)
    (tmp_path / "manifest.json").write_text(json.dumps(Manifest(command="sft", facts=facts).dump()))
    assert "7 pairs of prompt and response" in model_card(tmp_path)


def test_a_run_from_a_cache_names_it_and_what_the_settings_leave_at_their_defaults(run: Path) -> None:
    (run / "config.toml").write_text('cache = "cache/"\nstudent = "./small"\n')
    facts = RunFacts(models={"student": "sha256:1", "oracle": "sha256:3"}, sequences=9)
    (run / "manifest.json").write_text(json.dumps(Manifest(command="distill", facts=facts).dump()))
    text = model_card(run)
    for line in (
        "- teacher: `cache/` (a cache)",
        "- student before: `./small`",
        "- loss: forward KL",
        "- responses: offline, 9 sequences",
        "- oracle's fingerprint: `sha256:3`",
    ):
        assert f"{line}\n" in text
    assert "student's fingerprint" not in text and "base_model" not in text


@pytest.mark.parametrize(
    ("loss", "tokenizer", "told"),
    [
        ("weight = 0.0\npolicy.weight = 1.0", "", "policy gradient (k1)"),
        ("weight = 0.0\nce_weight = 1.0", "", "cross-entropy"),
        ('add = ["reverse_kl:1"]', "", "forward KL + reverse KL"),
        ("weight = 0.5\ntemperature = 4.0", "", "0.5 · forward KL at temperature 4"),
        ('divergence = "jsd"\nbeta = 0.3', "", "JSD (β = 0.3)"),
        ('divergence = "skewed_kl"', "", "skewed KL (skew = 0.1)"),
        (
            'mix = "entropy"\nce_weight = 1.0\nentropy_order = 0.1',
            "",
            "forward KL + cross-entropy, hard and soft weighed by entropy of order 0.1",
        ),
        ("", "sha256:4", "forward KL (cell)"),
        ('cross_tokenizer = "uld"\nce_weight = 1.0', "sha256:4", "uld + cross-entropy"),
        ('cross_tokenizer = "gold"', "sha256:4", "forward KL (gold)"),
    ],
)
def test_the_loss_is_the_one_that_was_minimised(run: Path, loss: str, tokenizer: str, told: str) -> None:
    (run / "config.toml").write_text(f"[loss]\n{loss}\n")
    facts = RunFacts(models={"student": "sha256:1"}, sequences=7, teacher_tokenizer=tokenizer)
    (run / "manifest.json").write_text(json.dumps(Manifest(command="distill", facts=facts).dump()))
    assert f"- loss: {escaped(told)}\n" in model_card(run)


def test_a_decoder_is_opened_as_one(run: Path) -> None:
    (run / "model" / "config.json").write_text("{}")
    assert "AutoModelForCausalLM.from_pretrained" in model_card(run)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [("manifest.json", "{}", DataError), ("config.toml", "lost = 1", UsageError), ("config.toml", "a = =", DataError)],
)
def test_files_that_cannot_be_read_are_errors(run: Path, name: str, text: str, error: type[ThackError]) -> None:
    (run / name).write_text(text)
    with pytest.raises(error, match=name if error is DataError else "lost"):
        write_card(run)
    assert not (run / "model" / "README.md").exists()


def test_a_config_with_infinities_is_read(run: Path) -> None:
    path = run / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "time_step_limit": [0.0, float("inf")]}))  # as Mamba2's
    assert "AutoModelForSeq2SeqLM" in model_card(run)
