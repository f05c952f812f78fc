# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Ten minutes with thack
#
# From text to a verdict, in Python: a small teacher, a cache of what it predicts, a student, and what became of it.
# Sizes are tiny here, so that every cell takes seconds on a CPU. Each function is a command too: `thack sft`, `thack
# distill`, and so on, with the same settings.

# %%
from pathlib import Path

import thack

# %% [markdown]
# ## Data
#
# Python's own standard library as pairs: the signature of a function, and its docstring.

# %%
for path, lines in thack.corpus("data").items():
    print(f"{lines:6,} lines  {path}")

# %% [markdown]
# ## A teacher
#
# A new decoder with a tokenizer of its own, trained on the pairs. The student is smaller, and shares the tokenizer: an
# id has to mean the same word on both sides.

# %%
data = thack.DataSettings(path="data/pairs.jsonl", limit=300, max_response_tokens=20)
teacher = thack.sft(
    thack.SftSettings(
        data=data,
        tokenizer_size=512,
        architecture=thack.ArchitectureSettings(hidden_size=64, num_layers=1),
        epochs=3,
        out=Path("runs/teacher"),
    )
)
start = thack.sft(
    thack.SftSettings(
        data=data,
        tokenizer=str(teacher),
        architecture=thack.ArchitectureSettings(hidden_size=32, num_layers=1),
        epochs=1,
        out=Path("runs/start"),
    )
)

# %% [markdown]
# ## Its responses, and a cache
#
# The teacher answers 64 prompts. `probe_cache` measures what each kind of cache would keep of its predictions; then the
# top 64 ids of each token are stored, with the exact mass of all others.

# %%
prompts = thack.DataSettings(path="data/prompts.jsonl", limit=64, max_response_tokens=20)
thack.generate(thack.GenerateSettings(model=str(teacher), data=prompts, out=Path("responses")))

responses = thack.DataSettings(path="responses", max_response_tokens=20)
settings = thack.CacheSettings(teacher=str(teacher), data=responses, top_k=64, epochs=30, out=Path("cache"))
probe = thack.probe_cache(settings)
for row in probe.rows:
    print(f"{row.kind:8} {row.ids:5}  {row.bytes_per_token:6} bytes a token")
cache = thack.Cache.open(thack.cache_logits(settings))
print(f"{len(cache)} sequences, verified: {thack.verify_cache('cache', full=True).ok}")

# %% [markdown]
# ## A student
#
# Thirty passes over the same 64 responses. On 32 prompts that were held out, the *proxy metric* measures how far the
# student is from its teacher.

# %%
held_out = Path("data/held_out.jsonl").read_text().splitlines(keepends=True)
Path("few_held_out.jsonl").write_text("".join(held_out[:32]))
run = thack.distill(
    thack.DistillSettings(
        cache="cache",
        student=str(start),
        teacher=str(teacher),
        eval_data="few_held_out.jsonl",
        data=thack.DataSettings(max_response_tokens=20),
        evaluation=thack.EvaluationSettings(count=12, max_share=1),
        epochs=30,
        batch_size=16,
        out=Path("runs/student"),
    )
)
curves = thack.read_curves(run.path)
for step, proxy in zip(curves.step_E, curves.of("proxy").value, strict=True):
    print(f"step {step:4.0f}  proxy {proxy:.3f}")

# %% [markdown]
# ## A verdict
#
# Without an oracle there is no golden metric. thack compares progress on the trained responses with progress on other
# responses of the teacher to the same prompts: a student that memorises shows it there.

# %%
found = thack.verdict(run.path)
print(found.name)
for reason in thack.explain(found):
    print("-", reason)
