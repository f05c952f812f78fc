"""TRL's GKDTrainer as in its documentation, with the callback: the sketch of a user who trains with TRL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

# In a process of its own: TRL and what it imports warn about themselves, and warnings are errors here.
SCRIPT = """
import json, sys
from pathlib import Path
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from thack import EvalSet, HackingCallback, References

place = Path(sys.argv[1])
student, teacher, judge = (AutoModelForCausalLM.from_pretrained(place / n) for n in ("student", "teacher", "judge"))
tokenizer = AutoTokenizer.from_pretrained(place / "student")
tokenizer.pad_token = tokenizer.eos_token
references = References.of(teacher=teacher, oracle=judge)
eval_set = EvalSet.from_jsonl(place / "held_out.jsonl").with_responses(references, max_new_tokens=8)
turns = [{"messages": [{"role": "user", "content": f"f{i}"}, {"role": "assistant", "content": f"reads {i}"}]}
         for i in range(8)]
args = GKDConfig(output_dir=str(place / "out"), max_steps=4, per_device_train_batch_size=2, max_length=40,
                 max_new_tokens=4, lmbda=0.5, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
                 logging_steps=1, disable_tqdm=True, gradient_checkpointing=False)
trainer = GKDTrainer(model=student, teacher_model=teacher, args=args, processing_class=tokenizer,
                     train_dataset=Dataset.from_list(turns),
                     callbacks=[HackingCallback(eval_set, teacher=teacher, oracle=judge, every=2)])
trainer.train()
rows = [row for row in trainer.state.log_history if any(key.startswith("golden/") for key in row)]
print(json.dumps({"steps": [row["step"] for row in rows], "columns": sorted(rows[-1])}))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gkd_trainer_with_the_callback(tmp_path: Path) -> None:
    from thack.data.tokenizer import Tokenizer

    from .small import llama

    tokenizer = Tokenizer.train(["def read(path): read the file at path user assistant"] * 3, 264)
    for seed, name in enumerate(("student", "teacher", "judge")):
        llama(seed).save_pretrained(tmp_path / name)
        tokenizer.save(tmp_path / name)
        template = "{% for m in messages %}{{ m.content }}\\n{% endfor %}".replace("\\n", "|")
        (tmp_path / name / "chat_template.jinja").write_text(template)
    (tmp_path / "held_out.jsonl").write_text("\n".join(json.dumps({"prompt": f"def g{i}(x)"}) for i in range(6)))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=290, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["steps"] == [0, 2, 4]
    readout = "forward_kl/reference_sampled/token_mean"
    assert {f"{metric}/{readout}" for metric in ("golden", "proxy", "baseline")} <= set(told["columns"])
    assert (tmp_path / "out" / "thack" / "verdict.json").is_file()
