"""The experiment's text: pairs and prompts, one tokenizer, and three disjoint sets of prompts.

Stage 1, stage 2 and the held-out prompts are disjoint. The oracle is the ground truth and trains on every pair, so its
prompts are in all three sets. `splits.json` has the size of every overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thack.data import TASKS, Record, embedded_records, read_records, split_by_hash
from thack.data.encode import encode_prompts
from thack.data.export import PAIRS, PROMPTS, write_records
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, UsageError
from thack.files import atomic_directory, write_json
from thack.runtime import runlog
from thack.runtime.progress import Progress

SPLITS = ("stage1", "stage2", "held_out")
_SALT = "demo"  # published numbers were measured on these splits


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """One task's text as the models will read it."""

    task: str = "docstring"
    path: str = ""  # a file of prompts, for tasks that are not embedded
    tokenizer: str = ""  # a model directory whose tokenizer all roles share; empty: one is trained on the pairs
    tokenizer_size: int = 1024
    max_prompt_tokens: int = 24


def task_file(task: str, data: str) -> str:
    """The file with the prompts of a task; empty for an embedded one.

    Raises:
        UsageError: the task is not embedded, and `data` is not set.
        DataError: `data` has no file for it.
    """
    if task in TASKS:
        return ""
    if not data:
        known = ", ".join(TASKS)
        raise UsageError(
            f"task {task!r} is not embedded (those are {known})",
            hint=f"put its prompts into DIR/{task}.jsonl and use `data = DIR`",
        )
    for ending in (".jsonl", ".parquet"):
        path = Path(data).expanduser() / f"{task}{ending}"
        if path.is_file():
            return str(path)
    raise DataError(
        f"no prompts for task {task!r} in {data}",
        hint=f'put them there as {task}.jsonl, one {{"prompt": "…"}} per line, or as {task}.parquet',
    )


def write_corpus(settings: CorpusSettings, path: Path, progress: Progress) -> None:
    """pairs.jsonl (prompts that fit, with a response), prompts.jsonl (all that fit) and the tokenizer."""
    records = read_records(Path(settings.path)) if settings.path else embedded_records(settings.task)
    _check_one_prompt(records)
    pairs = [record for record in records if record.response]
    tokenizer = _tokenizer(settings, pairs)
    lengths = [len(ids) for ids in encode_prompts(records, tokenizer)]
    fitting = [r for r, length in zip(records, lengths, strict=True) if length <= settings.max_prompt_tokens]
    if not fitting:
        raise UsageError(
            f"none of the {len(records):,} prompts has at most {settings.max_prompt_tokens} tokens",
            details=[f"the shortest has {min(lengths)}"],
            hint="raise max_prompt_tokens",
        )
    with atomic_directory(path, replace=True) as directory:
        tokenizer.save(directory)
        write_records(directory / PAIRS, [record for record in fitting if record.response])
        write_records(directory / PROMPTS, _first_of_each_prompt(fitting))
        write_json(
            directory / "corpus.json",
            {
                "task": settings.task,
                "num_pairs": len(pairs),
                "num_pairs_that_fit": sum(1 for record in fitting if record.response),
                "num_prompts": len(records),
                "num_prompts_that_fit": len({record.prompt_id for record in fitting}),
                "max_prompt_tokens": settings.max_prompt_tokens,
            },
        )


def _check_one_prompt(records: Sequence[Record]) -> None:
    """Refuse prompts of the teacher's own, which the splits would drop: here all roles answer the same prompts."""
    own = next((record for record in records if record.teacher_prompt is not None), None)
    if own is not None:
        raise DataError(
            f"{own.name}: `teacher_prompt` has no place in an experiment, whose roles all read `prompt`",
            hint="take the key out of the file, or distill with `thack distill`",
        )


def _tokenizer(settings: CorpusSettings, pairs: Sequence[Record]) -> Tokenizer:
    if settings.tokenizer:
        return Tokenizer.load(settings.tokenizer)
    return Tokenizer.train(
        [text for record in pairs for text in (record.prompt, record.response or "")], settings.tokenizer_size
    )


def write_splits(corpus: Path, sizes: Mapping[str, int], seed: int, path: Path, progress: Progress) -> None:
    """stage1.jsonl, stage2.jsonl, held_out.jsonl: prompts only, disjoint, chosen by a hash of id and `seed`.

    Raises:
        UsageError: the corpus has too few prompts.
    """
    prompts = read_records(corpus / PROMPTS)
    answered = {row["id"] for row in runlog.read(corpus / PAIRS)}
    if sum(sizes.values()) > len(prompts):
        raise UsageError(
            f"the splits want {sum(sizes.values()):,} prompts, the corpus has {len(prompts):,} that fit",
            hint="lower num_sft_prompts, num_distill_prompts or num_held_out_prompts, or raise max_prompt_tokens",
        )
    splits = split_by_hash(prompts, sizes, salt=f"{_SALT}:{seed}")
    with atomic_directory(path, replace=True) as directory:
        for name in SPLITS:
            write_records(directory / f"{name}.jsonl", splits[name])
        write_json(directory / "splits.json", _overlaps(splits, answered))


def _overlaps(splits: Mapping[str, list[Record]], answered: set[str]) -> dict[str, object]:
    ids = {name: {record.prompt_id for record in splits[name]} for name in SPLITS}
    return {
        "num_prompts": {name: len(ids[name]) for name in SPLITS},
        "shared": {f"{a} & {b}": len(ids[a] & ids[b]) for a in SPLITS for b in SPLITS if a < b},
        "also_in_oracle_training": {name: len(ids[name] & answered) for name in SPLITS},
    }


def _first_of_each_prompt(records: Sequence[Record]) -> list[Record]:
    unique = {record.prompt_id: record for record in reversed(records)}
    return sorted(unique.values(), key=lambda record: record.prompt_id)
