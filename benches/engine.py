"""A distillation step: beside the same student's fine-tuning step, and beside TRL's GKD trainer.

Costs are CPU seconds, which a busy machine spoils less: of the training thread, on which torch runs alone, and beside
it of the whole process, the thread that reads the cache ahead included. Steps on the same batches, by turns.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness import Measurement, Target, tokenizer_of
from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import (
    ArchitectureSettings,
    CacheSettings,
    DataSettings,
    LossSettings,
    OptimizerSettings,
)
from thack.data.sequence import TokenSequence
from thack.generation.sources import Offline
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.models.native.architecture import Architecture
from thack.models.native.llama import Llama
from thack.runtime.progress import SILENT
from thack.schema.targets import TargetSpec
from thack.training.data import CachedTargets, LiveTargets, PairedData, TrainingData
from thack.training.live import LiveTeacher
from thack.training.objective import Objective, supervised
from thack.training.optimizer import build_optimizer, clip_gradients

BATCH, BATCHES, ROUNDS, PEER_STEPS = 32, 4, 3, 12
Sequences = Sequence[TokenSequence]


@dataclass
class Side:
    """One way to take a step with a model of its own."""

    model: Any
    training_data: TrainingData
    loss: Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor]
    fuses: Callable[[int], bool] = lambda num_tokens: False

    def __post_init__(self) -> None:
        self.model.train()
        self.parameters = list(self.model.parameters())
        self.optimizer = build_optimizer(self.model, OptimizerSettings())

    def step(self, batch: Sequences) -> None:
        """What the training loop does with one batch."""
        rows = Batch.of(batch)
        target = self.training_data.target(batch, rows, 0)
        output = self.model(rows, project=not self.fuses(len(rows.labels_N)))
        (self.loss(output, target, rows.labels_N).sum() / len(rows.labels_N)).backward()
        clip_gradients(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure() -> Iterator[Measurement]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    os.environ["THACK_NUM_THREADS"] = "1"
    try:
        with tempfile.TemporaryDirectory() as place:
            yield from _against_sft(Path(place))
            yield from _against_trl(Path(place))
    finally:
        torch.set_num_threads(threads)
        del os.environ["THACK_NUM_THREADS"]


def _against_sft(place: Path) -> Iterator[Measurement]:
    """The student of the demo, width 96, and one whose head is most of the work."""
    for name, vocab, kind in (("V = 1,024, dense", 1024, "dense"), ("V = 1,024, top-64", 1024, "top-k"),
                              ("V = 32,768, top-64", 32_768, "top-k")):  # fmt: skip
        folder = place / f"{vocab}-{kind}"
        cache = _cache(folder, vocab, kind)
        pairs = [cache.sequences(i) for i in range(len(cache))]
        fine_tuned = _model(vocab, 1)
        objective = supervised(fine_tuned)
        sft = Side(fine_tuned, PairedData(pairs), objective, objective.fuses)
        ours = _side(_model(vocab, 1), CachedTargets(cache, vocab), vocab)
        batches = [pairs[i * BATCH : (i + 1) * BATCH] for i in range(BATCHES)]
        training, process = _by_turns([ours, sft], batches)
        for of, (distill_s, sft_s) in (("training thread", training), ("all threads", process)):
            yield Measurement(
                what=f"distill step from a cache, {name}, {of}",
                ours=1e3 * distill_s,
                unit="CPU ms/step",
                peer="the same student's SFT step",
                theirs=1e3 * sft_s,
                floor=1e3 * sft_s,
                floor_is="the SFT step",
                target=Target(of="over floor", at_most=1.10) if of == "training thread" else None,
            )


def _side(model: Llama, training_data: TrainingData, vocab: int, *, divergence: Any = "forward_kl") -> Side:
    loss = LossSettings(divergence=divergence)
    objective = Objective(settings=loss, model=model, width=vocab)
    return Side(model, training_data, objective, objective.fuses)


def _by_turns(sides: Sequence[Side], batches: Sequence[Sequences]) -> tuple[list[float], list[float]]:
    """Mean over batches of the least seconds of a step: of this thread, and of all."""
    least = [[[float("inf")] * len(batches) for _ in sides] for _ in range(2)]
    for _ in range(ROUNDS + 1):  # the first round warms up, and is never the least
        for side in sides:
            side.training_data.expect(iter(batches))
        for b, batch in enumerate(batches):
            for s, side in enumerate(sides):
                started = time.thread_time(), time.process_time()
                side.step(batch)
                for i, ended in enumerate((time.thread_time(), time.process_time())):
                    least[i][s][b] = min(least[i][s][b], ended - started[i])
    for side in sides:
        side.training_data.expect(())
    training, process = ([sum(times) / len(times) for times in of] for of in least)
    return training, process


def _model(vocab: int, seed: int, width: int = 96) -> Llama:
    settings = ArchitectureSettings(hidden_size=width, num_layers=2, num_heads=4, max_positions=64)
    model = Llama(Architecture.new(settings, vocab), tokenizer_of(vocab))
    model.initialise(seed)
    return model


def _cache(folder: Path, vocab: int, kind: Any) -> Cache:
    """Responses of a random teacher, as the demo has them: 28 tokens behind a short prompt."""
    folder.mkdir()
    _model(vocab, 0, width=128).save(folder / "teacher")
    prompts = [{"id": f"p{i}", "prompt": f"def of_{i * 7919}(item, place={i}):"} for i in range(BATCH * BATCHES)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    data = DataSettings(path=str(folder / "prompts.jsonl"), max_response_tokens=28)
    settings = CacheSettings(
        out=folder / "cache", teacher=str(folder / "teacher"), data=data, kind=kind, generate=True, device="cpu"
    )
    capture(settings, SILENT)
    return Cache.open(folder / "cache")


def _against_trl(place: Path) -> Iterator[Measurement]:
    missing = [name for name in ("trl", "datasets", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"SKIPPED beside TRL: {', '.join(missing)} not installed (the extra `trl`)", file=sys.stderr)
        return
    folder = place / "1024-dense"  # its teacher, prompts and responses
    _model(1024, 1).save(folder / "student")
    ours, cached, theirs = (_run_alone(name, folder) for name in ("live", "cached", "trl"))
    for name, found in (("a live teacher", ours), ("a cache", cached)):
        peer = "TRL's GKDTrainer, live teacher"
        yield Measurement(
            what=f"distill with {name}, steps a CPU second", ours=found["steps_per_s"], unit="steps/s", peer=peer,
            theirs=theirs["steps_per_s"], is_rate=True,
        )  # fmt: skip
        yield Measurement(
            what=f"distill with {name}, peak memory over the start", ours=found["peak_mb"], unit="MB", peer=peer,
            theirs=theirs["peak_mb"],
        )  # fmt: skip


def _run_alone(name: str, folder: Path) -> dict[str, float]:
    """In a process of its own: memory has a peak per process."""
    run = subprocess.run([sys.executable, __file__, name, str(folder)], capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("FOUND")]
    if not lines:
        raise RuntimeError(f"{name}: {run.stderr[-600:]}")
    found: dict[str, float] = json.loads(lines[0].removeprefix("FOUND"))
    return found


def _alone(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    cache = Cache.open(folder / "cache")
    pairs = [cache.sequences(i) for i in range(len(cache))]
    work = _trl_steps(folder, pairs) if name == "trl" else _our_steps(name, folder, cache, pairs)
    work(3)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.process_time()
    work(PEER_STEPS)
    spent = time.process_time() - started
    print("FOUND", json.dumps({"steps_per_s": PEER_STEPS / spent, "peak_mb": _memory("VmHWM") - before}))


def _our_steps(name: str, folder: Path, cache: Cache, pairs: Sequences) -> Callable[[int], None]:
    training_data: TrainingData = CachedTargets(cache, 1024)
    if name == "live":
        teacher = load_model(folder / "teacher")
        thinned = LiveTeacher(teacher, 1024, TargetSpec(live=True), seed=0, examples=pairs, projects=False)
        training_data = LiveTargets(Offline(pairs), pairs, thinned, keeps_responses=False)
    model = load_model(folder / "student")
    assert isinstance(model, Llama)
    side = _side(model, training_data, 1024)

    def work(steps: int) -> None:
        for i in range(steps):
            first = i % BATCHES * BATCH
            side.step(pairs[first : first + BATCH])

    return work


def _trl_steps(folder: Path, pairs: Sequences) -> Callable[[int], None]:
    """Its own `train`, on the same tokens in the same batches, its teacher's forward included."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "student" / "tokenizer.json"))
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    student, teacher = (AutoModelForCausalLM.from_pretrained(folder / role) for role in ("student", "teacher"))

    def collate(rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        chosen = [pairs[row["number"]] for row in rows]
        width = max(len(s.prompt_ids) + len(s.response_ids) for s in chosen)
        ids, labels = torch.zeros(len(chosen), width, dtype=torch.long), torch.full((len(chosen), width), -100)
        mask = torch.zeros_like(ids)
        for i, s in enumerate(chosen):
            both = torch.tensor([*s.prompt_ids.tolist(), *s.response_ids.tolist()])
            ids[i, : len(both)], mask[i, : len(both)] = both, 1
            labels[i, len(s.prompt_ids) : len(both)] = both[len(s.prompt_ids) :]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def work(steps: int) -> None:
        settings = GKDConfig(
            output_dir=str(folder / "trl"), max_steps=steps, per_device_train_batch_size=BATCH, lmbda=0.0, beta=0.0,
            learning_rate=1e-3, report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True, bf16=False,
            gradient_checkpointing=False, disable_tqdm=True, optim="adamw_torch_fused",
        )  # fmt: skip
        GKDTrainer(
            model=student, teacher_model=teacher, args=settings, data_collator=collate, processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"number": list(range(len(pairs)))}),
        ).train()  # fmt: skip

    return work


def _memory(key: str) -> float:
    """MB of this process, by Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    _alone(sys.argv[1], Path(sys.argv[2]))
