"""TRL's GKDTrainer as in its documentation, with the callback: the sketch of a user who trains with TRL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from thack import EvalSet, HackingCallback, References
from thack.data.tokenizer import Tokenizer

from .small import llama


def directory(place: Path, seed: int, tokenizer: Tokenizer) -> Path:
    llama(seed).save_pretrained(place)
    tokenizer.save(place)
    (place / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}|{% endfor %}")
    return place


@pytest.mark.filterwarnings("ignore")  # TRL and what it imports warn about themselves
def test_gkd_trainer_with_the_callback(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    ours = Tokenizer.train(["def read(path): read the file at path user assistant"] * 3, 264)
    places = [directory(tmp_path / name, seed, ours) for seed, name in enumerate(("student", "teacher", "judge"))]
    student, teacher, judge = (AutoModelForCausalLM.from_pretrained(place) for place in places)
    tokenizer: Any = AutoTokenizer.from_pretrained(places[0])
    tokenizer.pad_token = tokenizer.eos_token
    (tmp_path / "held_out.jsonl").write_text("\n".join(json.dumps({"prompt": f"def g{i}(x)"}) for i in range(6)))
    references = References.of(teacher=teacher, oracle=judge)
    eval_set = EvalSet.from_jsonl(tmp_path / "held_out.jsonl").with_responses(references, max_new_tokens=8)
    turns = [
        {"messages": [{"role": "user", "content": f"f{i}"}, {"role": "assistant", "content": f"reads {i}"}]}
        for i in range(8)
    ]
    args = GKDConfig(
        output_dir=str(tmp_path / "out"), max_steps=4, per_device_train_batch_size=2, max_length=40, max_new_tokens=4,
        lmbda=0.5, report_to=[], save_strategy="no", use_cpu=True, bf16=False, logging_steps=1, disable_tqdm=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(turns),
        callbacks=[HackingCallback(eval_set, teacher=teacher, oracle=judge, every=2)],
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if any(key.startswith("golden/") for key in row)]
    assert [row["step"] for row in rows] == [0, 2, 4]
    readout = "forward_kl/reference_sampled/token_mean"
    assert {f"{metric}/{readout}" for metric in ("golden", "proxy", "baseline")} <= rows[-1].keys()
    assert (tmp_path / "out" / "thack" / "verdict.json").is_file()
