"""The experiment's text: pairs and prompts, one tokenizer, and three disjoint sets of prompts.

The oracle is the ground truth and trains on every pair, so its prompts recur in all three sets; stage 1,
stage 2 and the held-out prompts are disjoint. `splits.json` states every overlap.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from thack.corpus import Record, split_by_hash, stdlib_records
from thack.corpus.export import PAIRS, PROMPTS, write_records
from thack.errors import UsageError
from thack.experiment.settings import ExperimentSettings
from thack.files import atomic_directory, write_json
from thack.models.tokenizer import Tokenizer

SPLITS = ("stage1", "stage2", "held_out")


def write_corpus(path: Path, settings: ExperimentSettings) -> None:
    """pairs.jsonl (prompts that fit, with a response), prompts.jsonl (all that fit) and the tokenizer."""
    records = stdlib_records(settings.task)
    pairs = [record for record in records if record.response]
    texts = [text for record in pairs for text in (record.prompt, record.response or "")]
    tokenizer = Tokenizer.train(texts, settings.tokenizer_size)
    lengths = [len(ids) for ids in tokenizer.encode_batch([record.prompt for record in records])]
    fitting = [r for r, length in zip(records, lengths, strict=True) if length <= settings.max_prompt_tokens]
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


def write_splits(path: Path, settings: ExperimentSettings, corpus: Path, seed: int) -> None:
    """stage1.jsonl, stage2.jsonl, held_out.jsonl: prompts only, disjoint, drawn by hash of id and `seed`."""
    prompts = _read_jsonl(corpus / PROMPTS)
    answered = {record.prompt_id for record in _read_jsonl(corpus / PAIRS)}
    sizes = {
        "stage1": settings.num_sft_prompts,
        "stage2": settings.num_distill_prompts,
        "held_out": settings.num_held_out_prompts,
    }
    if sum(sizes.values()) > len(prompts):
        raise UsageError(
            f"the splits want {sum(sizes.values()):,} prompts, the corpus has {len(prompts):,} that fit",
            hint="lower num_sft_prompts, or raise max_prompt_tokens",
        )
    splits = split_by_hash(prompts, sizes, salt=f"{settings.name}:{seed}")
    with atomic_directory(path, replace=True) as directory:
        for name in SPLITS:
            write_records(directory / f"{name}.jsonl", splits[name])
        write_json(directory / "splits.json", _overlaps(splits, answered))


def _overlaps(splits: dict[str, list[Record]], answered: set[str]) -> dict[str, object]:
    ids = {name: {record.prompt_id for record in splits[name]} for name in SPLITS}
    return {
        "num_prompts": {name: len(ids[name]) for name in SPLITS},
        "shared": {f"{a} & {b}": len(ids[a] & ids[b]) for a in SPLITS for b in SPLITS if a < b},
        "also_in_oracle_training": {name: len(ids[name] & answered) for name in SPLITS},
    }


def _first_of_each_prompt(records: Sequence[Record]) -> list[Record]:
    unique = {record.prompt_id: record for record in reversed(records)}
    return sorted(unique.values(), key=lambda record: record.prompt_id)


def _read_jsonl(path: Path) -> list[Record]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Record(prompt_id=row["id"], prompt=row["prompt"], response=row["response"]) for row in rows]
