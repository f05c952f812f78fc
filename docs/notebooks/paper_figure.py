# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The paper's figure
#
# Golden over proxy, for a student on fixed responses and two on newly sampled ones. An oracle plays the truth: it
# wrote what the teacher learned from, so the distance to it can be measured.
#
# The recipe `quick` is too short to show the finding; its sizes are for seeing how it is done. With
# `thack.recipe("demo")`, which takes four to six minutes on two cores, the offline student turns upwards.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import thack

settings = thack.recipe(
    "quick",
    sets=[
        "num_sft_prompts=200",
        "num_distill_prompts=48",
        "num_held_out_prompts=32",
        "distill.epochs=16",
        "distill.evaluation.count=6",
    ],
)
result = thack.demo("runs/figure", settings=settings)

# %% [markdown]
# One run for each source of responses, with its verdict:

# %%
for run in result.runs:
    print(f"{run.source:16} {run.verdict.name}")

# %% [markdown]
# The curves of a run are arrays over its evaluations. Training runs from the right, where the student is far from its
# teacher, to the left.

# %%
figure, axes = plt.subplots(figsize=(6, 4))
for run in result.runs:
    curves = thack.read_curves(run.path)
    axes.plot(curves.of("proxy").value, curves.of("golden").value, marker="o", label=run.source)
axes.set_xlabel("proxy: KL(teacher‖student), nats per token")
axes.set_ylabel("golden: KL(oracle‖student), nats per token")
axes.legend()
figure.savefig("figure.png", dpi=120)
print(Path("figure.png").stat().st_size > 0)
