"""Supervised fine-tuning and distillation: one loop, read from top to bottom in trainer.py."""

from thack.training.distill import RunResult, run_distill
from thack.training.run_directory import final_model
from thack.training.sft import run_sft

__all__ = ["RunResult", "final_model", "run_distill", "run_sft"]
