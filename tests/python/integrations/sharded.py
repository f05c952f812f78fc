"""The callback on a student sharded by FSDP2 over two ranks, and on an unsharded one: OUT/sharded, OUT/whole."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
import transformers
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))
from distributed.ranks import any_failed, fork_ranks
from integrations.small import llama
from thack import EvalSet, HackingCallback, References
from thack.config import EvaluationSettings
from thack.data import Record
from thack.data.tokenizer import Tokenizer
from thack.errors import UsageError
from thack.integrations import CallbackSettings


def measure(place: Path) -> None:
    dist.init_process_group("gloo")
    first = dist.get_rank() == 0
    tokenizer = Tokenizer.train(["def read(path): read the file at path"] * 3, 264)
    records = [Record(prompt_id=f"p{i}", prompt=f"def f{i}(x)") for i in range(6)]
    references = References.of(teacher=llama(8), oracle=llama(7), tokenizer=tokenizer)
    eval_set = EvalSet.from_records(records).with_responses(references, max_new_tokens=8)
    student = llama(1)
    if place.name == "sharded":
        for layer in student.model.layers:
            fully_shard(layer)
        fully_shard(student)
        assert all(isinstance(p, DTensor) for p in student.parameters())
    evaluation = EvaluationSettings(student_samples=False, bootstrap=20)
    settings = CallbackSettings(evaluation=evaluation, stop_on_alarm=True)
    given: dict[str, Any] = {"teacher": references.teacher, "oracle": references.oracle, "tokenizer": tokenizer}
    state = transformers.TrainerState(is_world_process_zero=first)
    control, args = transformers.TrainerControl(), type("Arguments", (), {"output_dir": str(place)})()
    callback = HackingCallback(eval_set, every=1, settings=settings, **given)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student.train()
    callback.on_train_begin(args, state, control, model=student)
    for step in (1, 2):  # a backward after an evaluation: nothing of it may stay in the graph
        ids = torch.arange(2, 10).reshape(1, -1)
        student(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        state.global_step = step
        callback.on_step_end(args, state, control, model=student)
    callback.on_train_end(args, state, control, model=student)
    if place.name == "sharded":
        sampling = HackingCallback(eval_set, settings=CallbackSettings(evaluation=EvaluationSettings()), **given)
        try:
            sampling.on_train_begin(args, state, control, model=student)
        except UsageError as error:
            assert "cannot be sampled" in error.message
        else:
            raise AssertionError("sampling from a sharded student was not refused")
    if first:
        (place / "log.json").write_text(json.dumps(state.log_history))
    dist.destroy_process_group()


def _measure(place: Path, rank: int) -> None:
    measure(place)  # its rank is in the environment


def main(out: Path) -> int:
    children = []
    for name, world_size in (("sharded", 2), ("whole", 1)):
        (out / name).mkdir()
        children += fork_ranks(world_size, partial(_measure, out / name))
    return int(any_failed(children))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
