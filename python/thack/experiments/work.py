"""What each stage does: the commands, with the directory to write to. Picklable, so that a worker can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from thack.cache.capture.job import capture
from thack.config import CacheSettings, DataSettings, DistillSettings, GenerateSettings, SftSettings
from thack.evaluation import EvalSet, References
from thack.evaluation.prompt_information import prompt_information as measure_prompt_information
from thack.files import write_json
from thack.generation.run import run_generate
from thack.models.layers import keep_layers as layers_of
from thack.models.load import load_model
from thack.runtime.device import apply_threads, choose_device
from thack.runtime.progress import Progress
from thack.schema.evaluation import PROMPT_INFORMATION_FILE
from thack.training import run_distill, run_sft


def fine_tune(settings: SftSettings, name: str, path: Path, progress: Progress) -> None:
    """Train an oracle, a teacher or a student before its distillation."""
    run_sft(replace(settings, out=path), progress=progress, name=name)


def generate(settings: GenerateSettings, path: Path, progress: Progress) -> None:
    """Sample responses."""
    run_generate(replace(settings, out=path), progress=progress)


def cache(settings: CacheSettings, path: Path, progress: Progress) -> None:
    """Sample responses, and cache the teacher's distributions on them."""
    capture(replace(settings, out=path), progress=progress)


def distill(settings: DistillSettings, name: str, path: Path, progress: Progress) -> None:
    """Distill a student: the run of a cell."""
    run_distill(replace(settings, out=path), progress=progress, name=name)


def reuse(directory: Path, path: Path, progress: Progress) -> None:
    """Use a model as it is: by a link where a trained one would be."""
    path.mkdir(parents=True, exist_ok=True)
    link = path / "model"
    link.unlink(missing_ok=True)
    link.symlink_to(directory.resolve(), target_is_directory=True)


def keep_layers(directory: Path, layers: Sequence[int], path: Path, progress: Progress) -> None:
    """Make a smaller model of some layers of another one."""
    path.mkdir(parents=True, exist_ok=True)
    layers_of(directory, layers, path / "model")


def eval_set(oracle: Path, teacher: Path, data: DataSettings, seed: int, path: Path, progress: Progress) -> None:
    """The held-out prompts with one response of oracle and teacher each."""
    apply_threads()
    device = choose_device("auto")
    references = References(
        oracle=load_model(oracle, role="oracle", device=device),
        teacher=load_model(teacher, role="teacher", device=device),
    )
    EvalSet.from_jsonl(data.path).with_responses(
        references,
        max_new_tokens=data.max_response_tokens,
        seed=seed,
        progress=progress,
    ).save(path)


def prompt_information(oracle: Path, eval_set: Path, path: Path, progress: Progress) -> None:
    """How much of a response's information comes from its prompt, by the oracle."""
    apply_threads()
    model = load_model(oracle, role="oracle", device=choose_device("auto"))
    found = measure_prompt_information(model, EvalSet.load(eval_set))
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / PROMPT_INFORMATION_FILE, found.dump())
