# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A cache into TRL
#
# The predictions of a teacher are cached once. Then SFTTrainer of TRL trains a student from the cache: no teacher in
# memory, and any option of transformers beside. Needs `pip install 'thack[hf]' trl`.

# %%
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import thack
from thack.integrations import CacheCollator, CacheLoss

thack.corpus("data")
data = thack.DataSettings(path="data/pairs.jsonl", limit=64, max_response_tokens=16)
teacher, student = (
    thack.sft(
        thack.SftSettings(
            data=data,
            tokenizer=tokenizer,
            tokenizer_size=384,
            architecture=thack.ArchitectureSettings(hidden_size=width, num_layers=1),
            epochs=1,
            out=Path(out),
        )
    )
    for out, width, tokenizer in (("runs/teacher", 48, ""), ("runs/student", 32, "runs/teacher/model"))
)
thack.cache_logits(thack.CacheSettings(teacher=str(teacher), data=data, top_k=32, out=Path("cache")))

# %% [markdown]
# TRL wants a data set of `datasets`: here one of positions in the cache. The collator reads text and targets of these
# positions, and the loss is thack's, with its gradient computed by the row kernels.

# %%
cache = thack.Cache.open("cache")
model = AutoModelForCausalLM.from_pretrained(student)
tokenizer = AutoTokenizer.from_pretrained(student)
tokenizer.pad_token = tokenizer.eos_token
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        "runs/sft",
        max_steps=6,
        per_device_train_batch_size=8,
        logging_steps=2,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to=[],
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=Dataset.from_dict({"position": list(range(len(cache)))}),
    data_collator=CacheCollator(cache, model, tokenizer, tensor_labels=True),
    compute_loss_func=CacheLoss(thack.LossSettings(divergence="jsd", beta=0.5)),
    processing_class=tokenizer,
)
trainer.train()
for row in trainer.state.log_history:
    if "loss" in row:
        print(f"step {row['step']}: {row['loss']:.4f}")

# %% [markdown]
# The student is an ordinary model directory, for vLLM as for thack.

# %%
trainer.save_model("runs/sft/model")
tokenizer.save_pretrained("runs/sft/model")
print(sorted(path.name for path in Path("runs/sft/model").glob("*.safetensors")))
