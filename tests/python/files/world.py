"""One valid file of every kind that thack reads, and how each is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cache.test_exchange import line, write_jsonl
from data.small import ANSWER, CHATML, USER, write_tokenizer
from thack import api
from thack.cache.exchange.hidden import StateFiles
from thack.cache.exchange.packed import read_layout
from thack.cache.exchange.readers import read_rows
from thack.cache.format.ends import read_ends
from thack.cache.format.reader import Cache
from thack.cache.format.writer import read_writer
from thack.cache.served.answer_log import AnswerLog
from thack.config import CheckpointSettings, DataSettings, DistillSettings, load_settings
from thack.data.date import with_settings
from thack.data.index import IndexedSequences
from thack.data.prepare import prepare
from thack.data.rows import datasets_files
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.detection.curves import Curves
from thack.evaluation import EvalSet
from thack.evaluation.kept import KeptParts, Part
from thack.files import directory_kind, write_json
from thack.generation.kept import KeptResponses
from thack.models.load import load_model
from thack.reading import read_json, read_text
from thack.reporting.grid import load_grid
from thack.reporting.inputs import load, read_run
from thack.reporting.model_card import model_card
from thack.runtime import runlog
from thack.runtime.lock import _owner_of
from thack.runtime.status import read_status
from thack.schema.evaluation import PromptInformation
from thack.schema.experiment import (
    CellResult,
    ExperimentArm,
    Plan,
    PlannedCell,
    SpentTime,
    StageCosts,
    StageRecord,
    Summary,
)
from thack.schema.lock import LockOwner
from thack.schema.serving import ProbeAnswer, ServedTeacher
from thack.schema.verdict import Verdict
from thack.training.checkpoint import check_checkpoint, read_snapshot
from thack.training.guarded_data import _read as read_set
from training.world import build_world, distill_settings

CHAT = {"messages": [USER, ANSWER]}


@dataclass(frozen=True, slots=True)
class Kind:
    """A file in the world, and what reads it."""

    path: str
    read: Callable[[Path], object]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def _whole_cache(path: Path) -> object:
    cache = Cache.open(path.parent)
    return [cache.costs(), api.inspect_cache(path.parent), api.verify_cache(path.parent)]


def _chats(path: Path) -> object:
    settings = DataSettings(path=str(path.parent.parent / "chats.jsonl"), date="2026-11-29")
    return prepare(settings, with_settings(Tokenizer.load(path.parent), settings), need_response=True)


def _stream(path: Path) -> DataStream:
    settings = DataSettings(path=str(path.parent.parent / "prompts.jsonl"))
    return DataStream(settings, Tokenizer.load(path.parent.parent / "teacher"), need_response=False)


def _index(path: Path) -> object:
    rows = IndexedSequences(path, _stream(path))
    return [list(rows.lengths()), rows.read([0])]


def _data(path: Path) -> object:
    tokenizer = Tokenizer.load(path.parent / "teacher")
    return prepare(DataSettings(path=str(path)), tokenizer, need_response=False)


def _kept(path: Path) -> None:
    with closing(KeptResponses(path, {"model": "m"})) as kept:
        kept.find(0, [0])


def _parts(path: Path) -> None:
    with closing(KeptParts(path, "key")) as kept:
        kept.names()


def _answers(path: Path) -> object:
    with AnswerLog(path, 4) as log:
        return [log.get(position) for position in (0, 1) if position in log]


def _hidden(path: Path) -> object:
    files, ids = StateFiles(path.parent), np.array([1, 2, 3], np.int32)
    return files.states(ids[:1], ids[1:]) if files.path(ids[:1], ids[1:]) else None


KINDS = (
    *(Kind(f"cache/{name}", _whole_cache) for name in ("plan.json", "manifest.json")),
    Kind("cache/journal/rank-00000.jsonl", lambda path: Cache.open(path.parents[1]).costs()),
    Kind("cache/ends.json", lambda path: read_ends(path.parent)),
    Kind("cache/writer.json", lambda path: read_writer(path.parent)),
    Kind("cache/shards/shard-00000.safetensors", lambda path: Cache.open(path.parents[1]).targets([0, 1])),
    Kind("cache/thack.json", lambda path: directory_kind(path.parent)),
    Kind("cache/data.index", _index),
    Kind("chat/date.json", lambda path: with_settings(Tokenizer.load(path.parent), DataSettings(), path.parent)),
    Kind("cache/served.json", lambda path: ServedTeacher.parse(read_json(path))),
    Kind("answers.log", _answers),
    *(
        Kind(f"shards/{name}", lambda path: load_model(path.parent))
        for name in (
            *("config.json", "generation_config.json", "model.safetensors.index.json"),
            *("model-00001-of-00001.safetensors", "tokenizer.json", "tokenizer_config.json"),
        )
    ),
    *(
        Kind(f"chat/{name}", _chats)
        for name in (
            *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
            *("vocab.json", "merges.txt", "tokenizer.model", "spiece.model"),
        )
    ),
    Kind("teacher/model.safetensors", lambda path: load_model(path.parent)),
    Kind("adapted/adapter_config.json", lambda path: load_model(path.parent)),
    Kind("adapted/adapter_model.safetensors", lambda path: load_model(path.parent)),
    *(
        Kind(f"run/{name}", lambda path: read_run(path.parent, None, None))
        for name in ("metrics.jsonl", "per_prompt.jsonl", "samples.jsonl", "held_out.jsonl", "environment.json")
    ),
    Kind("run/metrics.jsonl", lambda path: runlog.truncate_after(path, 2)),
    Kind("run/manifest.json", lambda path: [read_run(path.parent, None, None), model_card(path.parent)]),
    Kind("run/config.toml", lambda path: [load_settings(DistillSettings, [path]), read_run(path.parent, None, None)]),
    Kind("run/model/config.json", lambda path: model_card(path.parents[1])),
    Kind("run/STATUS.json", lambda path: read_status(path.parent)),
    Kind("run/verdict.json", lambda path: Verdict.from_json(read_text(path))),
    Kind("run/checkpoints/step_000002/COMMIT.json", lambda path: check_checkpoint(path.parent)),
    Kind("run/checkpoints/step_000002/optimizer.safetensors", lambda path: check_checkpoint(path.parent)),
    Kind("run/checkpoints/step_000002/trainer.json", lambda path: read_snapshot(path.parent)),
    Kind("run/checkpoints/step_000002/responses.json", lambda path: read_snapshot(path.parent)),
    Kind("run/fresh/set_000.jsonl", lambda path: list(read_set(path, 1, 2))),
    Kind("experiment.json", lambda path: [load_grid(path.parent), load([path.parent / "run"], path.parent)]),
    Kind("cells.json", lambda path: Plan.parse(read_json(path))),
    Kind("stage.json", lambda path: StageRecord.parse(read_json(path))),
    Kind("prompt_information.json", lambda path: PromptInformation.parse(read_json(path))),
    Kind("eval_set/manifest.json", lambda path: EvalSet.load(path.parent)),
    Kind("eval_set/prompts.jsonl", lambda path: EvalSet.load(path.parent)),
    Kind(".evaluation.json.partial.jsonl", _parts),
    Kind("responses.partial.jsonl", _kept),
    Kind("written/manifest.json", lambda path: _data(path.parent)),
    Kind("written/responses.jsonl", lambda path: _data(path.parent)),
    *(Kind(f"rows{end}", _data) for end in (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")),
    Kind("saved/state.json", lambda path: datasets_files(path.parent)),
    Kind(".stage.spent", lambda path: SpentTime.parse(read_json(path))),
    Kind(".run.lock", _owner_of),
    Kind(".run.lock.taken", _owner_of),
    Kind("trainer_state.json", lambda path: Curves.from_log(path, {"golden": "golden", "proxy": "proxy"})),
    Kind("packed/compression_config.yaml", lambda path: read_layout(path, path)),
    Kind("source.jsonl", lambda path: list(read_rows(path))),
    Kind("source.safetensors", lambda path: list(read_rows(path))),
    Kind("hidden/state.safetensors", _hidden),
)


def build(root: Path) -> Path:
    """A directory with a valid file of every kind."""
    build_world(root)
    shutil.copy(next((root / "cache").glob("data-*.index")), root / "cache" / "data.index")
    checkpoint = CheckpointSettings(every_steps=2)
    api.distill(distill_settings(root, root / "run", epochs=1, steps=4, checkpoint=checkpoint))
    api.verdict(root / "run")
    _models(root)
    _logs(root)
    _rows(root)
    _documents(root)
    _tensors(root)
    return root


def _models(root: Path) -> None:
    shutil.copytree(root / "teacher", root / "shards")
    (root / "shards/model.safetensors").rename(root / "shards/model-00001-of-00001.safetensors")
    names = load_file(root / "shards/model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    write_json(root / "shards/model.safetensors.index.json", {"metadata": {"total_size": 1}, **index})
    chat = write_tokenizer(root / "chat", template=CHATML + "{# strftime_now #}")
    (chat / "chat_template.jinja").write_text(CHATML + "{# strftime_now #}")
    _json(chat, {"special_tokens_map.json": {"eos_token": "</s>"}, "added_tokens.json": {"</s>": 257}})
    _json(chat, {"vocab.json": {"a": 0}, "date.json": {"schema": 1, "date": "2026-11-29"}})
    for name in ("merges.txt", "tokenizer.model", "spiece.model"):
        (chat / name).write_text("a b\n")
    shutil.copytree(root / "teacher", root / "adapted")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "x", "r": 1, "target_modules": ["q_proj"]}
    _json(root / "adapted", {"adapter_config.json": adapter})
    factors: dict[str, torch.Tensor] = {}
    for name in (name for name in names if "q_proj" in name):
        outputs, inputs = names[name].shape
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        factors |= {f"{stem}.lora_A.weight": torch.zeros(1, inputs), f"{stem}.lora_B.weight": torch.zeros(outputs, 1)}
    save_file(factors, root / "adapted/adapter_model.safetensors")


def _logs(root: Path) -> None:
    kept = KeptResponses(root / "responses.partial.jsonl", {"model": "m"})
    kept.add(0, [0], [np.array([1, 2], np.int32)])
    kept.close()
    with closing(KeptParts(root / ".evaluation.json.partial.jsonl", "key")) as parts:
        parts.of("human", lambda: Part(sums={}))
    with AnswerLog(root / "answers.log", 4) as log:
        log.add(0, np.array([1, 2], np.int32), np.zeros(2, np.float32), b"12345678")
        log.confirm()
    owner = LockOwner(host="h", pid=1, boot="b", start="s", nonce="n", since="2026-11-29", command="thack sft")
    _json(root, {".run.lock": owner.dump(), ".run.lock.taken": owner.dump()})
    history = [{"step": step, "golden": 1 / step, "proxy": 1 / step, "loss": 1.0} for step in (1, 2, 3)]
    _json(root, {"trainer_state.json": {"log_history": history}})


def _rows(root: Path) -> None:
    import pyarrow
    from pyarrow import feather, ipc, parquet

    rows = [{"prompt": f"prompt {i}", "response": "yes", "id": str(i)} for i in range(3)]
    _json(root, {"rows.json": rows})
    chats = [CHAT, CHAT]
    named: dict[str, Sequence[Mapping[str, object]]] = {"rows.jsonl": rows, "chats.jsonl": chats}
    for name, found in named.items():
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in found))
    for end, separator in {".csv": ",", ".tsv": "\t"}.items():
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        (root / f"rows{end}").write_text("".join(separator.join(cells) + "\n" for cells in lines))
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, root / "rows.parquet")
    feather.write_feather(table, str(root / "rows.feather"))
    with ipc.new_stream(str(root / "rows.arrow"), table.schema) as file:
        file.write_table(table)
    (root / "saved").mkdir()
    shutil.copy(root / "rows.arrow", root / "saved/data-00000-of-00001.arrow")
    _json(root / "saved", {"state.json": {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}})
    data = DataSettings(path=str(root / "rows.jsonl"), max_response_tokens=4)
    generate(root, data)


def generate(root: Path, data: DataSettings) -> None:
    from thack.config import GenerateSettings

    api.generate(GenerateSettings(model=str(root / "teacher"), data=data, out=root / "written", device="cpu"))


def _documents(root: Path) -> None:
    step = root / "run/checkpoints/step_000002"
    sequence = {"prompt_id": "a", "example": 0, "sample": 0, "prompt_ids": [1], "response_ids": [2]}
    _json(step, {"responses.json": [sequence]})
    (root / "run/fresh").mkdir()
    responses = [{"response_ids": [1]}, {"response_ids": [2, 3]}]
    write_jsonl(root / "run/fresh/set_000.jsonl", [{"epoch": 1, "responses": 2}, *responses])
    probe = ProbeAnswer(prompt=(1,), ids=(2,), log_probs=(-1.0,))
    served = ServedTeacher(model="m", dialect="vllm", log_probs="raw", probes=(probe,))
    _json(root / "cache", {"served.json": served.dump()})
    arm = ExperimentArm(
        task="text", source="offline", fraction_online=0.0, diversity=1, budget=1,
        loss="forward_kl", teacher="16", student="16", target="dense",
    )  # fmt: skip
    cell = CellResult(cell=0, path="run", arm="a", seed=0, figures=("F4",), axes=arm, state="finished")
    costs = StageCosts(name="run", count=1, cpu_seconds=1.0)
    summary = Summary(
        title="t", figures=("F4",), base=arm, seeds=(0,), runs=(cell,), claims=(), stages=(costs,),
        seconds=1.0, cpu_seconds=1.0, settings={"a": {"b": 1}},
    )  # fmt: skip
    plan = Plan(recipe="demo", cells=(PlannedCell(cell=0, arm="a", seed=0, run="run", needs=("corpus",)),))
    stage = StageRecord(name="s", key="k", seconds=1.0, cpu_seconds=1.0, operations=1.0, inputs={}, settings={"a": 1})
    _json(root, {"experiment.json": summary.dump(), "cells.json": plan.dump(), "stage.json": stage.dump()})
    _json(root, {".stage.spent": SpentTime(seconds=1.0, cpu_seconds=0.5).dump()})
    information = PromptInformation(
        with_prompt=1.0, without_prompt=2.0, from_prompt_interval=(0.5, 1.5), num_prompts=4, num_shuffles=2
    )
    _json(root, {"prompt_information.json": information.dump()})
    (root / "packed").mkdir()
    packed = "d: 50\nk: 4\nexact_k: 2\nexact_dtype: float32\npolynomial_terms: [0, 1]\nterm_dtype: float32\n"
    (root / "packed/compression_config.yaml").write_text(packed + "residual_bins: []\n")
    write_jsonl(root / "source.jsonl", [line(0), line(1)])


def _tensors(root: Path) -> None:
    source = {
        "prompt_tokens": torch.tensor([1, 2]), "prompt_starts": torch.tensor([0, 2]),
        "response_tokens": torch.tensor([3]), "response_starts": torch.tensor([0, 1]),
        "ids": torch.tensor([[3, 4]]), "logprobs": torch.tensor([[-0.5, -1.0]]),
    }  # fmt: skip
    save_file(source, root / "source.safetensors")
    (root / "hidden").mkdir()
    states = {"token_ids": torch.tensor([1, 2, 3]), "hidden_states": torch.zeros(3, 4)}
    save_file(states, root / "hidden/state.safetensors")


def _json(directory: Path, files: Mapping[str, object]) -> None:
    for name, content in files.items():
        write_json(directory / name, content)
