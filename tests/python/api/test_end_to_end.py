"""The whole pipeline with models of transformers: fine-tuned, sampled, cached, distilled, evaluated, judged.

T5 (encoder-decoder) and GPT-2 through [hf], the native decoder beside them; widths and padded vocabularies differ.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thack import api
from thack.config import (
    ArchitectureSettings,
    CacheSettings,
    DataSettings,
    DistillSettings,
    EvaluateSettings,
    EvaluationSettings,
    GenerateSettings,
    SftSettings,
    SourceSettings,
)
from thack.data.tokenizer import Tokenizer
from thack.models.load import load_model, new_decoder

transformers = pytest.importorskip("transformers")

TEXTS = [f"def f{i}(x): returns {i * 7 % 10} for x" for i in range(12)]
# Untied: a tied head on random weights repeats its input: to the alignment check of `distill`, a shifted cache.
SPECIAL = {"eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 280)


def save(kind: str, path: Path, tokenizer: Tokenizer, *, width: int, vocab: int, seed: int) -> str:
    """A directory with random weights, as save_pretrained or thack writes it."""
    torch.manual_seed(seed)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=vocab, d_model=width, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0,
            **SPECIAL,
        )  # fmt: skip
        transformers.T5ForConditionalGeneration(config).save_pretrained(path)
    elif kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=vocab, n_embd=width, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, **SPECIAL
        )
        transformers.GPT2LMHeadModel(config).save_pretrained(path)
    else:
        settings = ArchitectureSettings(hidden_size=width, num_heads=2, num_layers=1, max_positions=64)
        new_decoder(settings, tokenizer, seed).save(path)
    tokenizer.save(path)
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> DataSettings:
    rows = [{"prompt": text.split(":")[0], "response": text.split(": ")[1]} for text in TEXTS]
    for name, part in (("pairs", rows[:8]), ("held_out", rows[8:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)) + "\n")
    return DataSettings(path=str(tmp_path / "pairs.jsonl"), max_response_tokens=10)


@pytest.mark.parametrize(
    ("teacher_kind", "student_kind"), [("t5", "t5"), ("t5", "native"), ("native", "t5"), ("gpt2", "gpt2")]
)
def test_the_whole_pipeline(
    teacher_kind: str, student_kind: str, tmp_path: Path, tokenizer: Tokenizer, data: DataSettings
) -> None:
    # A teacher that is not trained puts mass on the padding of its head; a student narrower than that is refused.
    vocab = 280 if student_kind == "native" else 288
    base = save(teacher_kind, tmp_path / "base", tokenizer, width=24, vocab=vocab, seed=0)
    student = save(student_kind, tmp_path / "student", tokenizer, width=16, vocab=304, seed=1)
    teacher = str(
        api.sft(
            SftSettings(
                model=base, data=data, out=tmp_path / "teacher", epochs=2, batch_size=4, device="cpu", dtype="float32"
            )
        )
    )
    written = api.generate(
        GenerateSettings(model=teacher, data=data, out=tmp_path / "written", device="cpu", dtype="float32")
    )
    assert written.responses == 8
    offline = replace(data, path=str(written.out))
    cache = api.cache_logits(
        CacheSettings(teacher=teacher, data=offline, out=tmp_path / "cache", top_k=8, device="cpu", dtype="float32")
    )
    training = DistillSettings(student=student, teacher=teacher, batch_size=4, device="cpu", dtype="float32")
    run = api.distill(
        replace(
            training,
            cache=str(cache),
            oracle=base,
            eval_data=str(tmp_path / "held_out.jsonl"),
            data=DataSettings(max_response_tokens=10),
            out=tmp_path / "run",
            epochs=3,
            evaluation=EvaluationSettings(count=2, bootstrap=20),
        )
    )
    live = api.distill(
        replace(training, data=data, out=tmp_path / "live", steps=2, source=SourceSettings(kind="online-student"))
    )
    assert live.steps == 2
    found = api.evaluate(
        EvaluateSettings(
            student=str(run.model),
            teacher=teacher,
            oracle=base,
            eval_data=str(tmp_path / "held_out.jsonl"),
            data=data,
            out=tmp_path / "evaluation.json",
            evaluation=EvaluationSettings(bootstrap=20),
            device="cpu",
            human_references=True,
        )
    )
    metrics = {name.split("/")[0] for name in found.columns}
    assert metrics == {"golden", "proxy", "baseline", "human", "human_baseline", "health"}
    assert api.verdict(run.path).name == "inconclusive"
    assert "Teacher hacking" in (run.model / "README.md").read_text()
    opens(run.model, student_kind, tokenizer)


def opens(directory: Path, kind: str, tokenizer: Tokenizer) -> None:
    """In transformers as it is, tokenizer included, with the weights that thack loads."""
    cls = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    model = cls.from_pretrained(directory)
    tokens = transformers.AutoTokenizer.from_pretrained(directory)
    assert tokens("def f3(x)")["input_ids"] == tokenizer.encode("def f3(x)").tolist()
    ours: Any = load_model(directory)
    head = model.get_output_embeddings().weight
    assert torch.equal(ours.head().weight, head)
