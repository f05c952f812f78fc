"""thack cache-logits: score responses with a teacher and keep what it knows."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from thack.cli.app import app
from thack.cli.console import byte_size, count, duration, out
from thack.cli.verbs import Call, Flag, verb
from thack.config import CacheSettings
from thack.schema.cache import CaptureEstimate

FLAGS = {
    "teacher": Flag(key="teacher", help="directory of the teacher"),
    "data": Flag(key="data.path"),
    "on_bad_line": Flag(key="data.on_bad_line"),
    "out": Flag(key="out", help="directory of the cache; run again to go on"),
    "kind": Flag(key="kind", help="what is kept of each distribution"),
    "top_k": Flag(key="top_k", help="keep the so many most likely ids and the exact tail", implies={"kind": "top-k"}),
    "temperatures": Flag(key="temperatures", help="also keep the tail at these T, as 0.5,2 (top-k)"),
    "sampled": Flag(key="sampled", help="keep so many ids of an unbiased sample", implies={"kind": "sampled"}),
    "limit": Flag(key="data.limit"),
    "generate": Flag(key="generate"),
    "samples": Flag(key="samples", help="responses per prompt, with --generate"),
    "epochs": Flag(key="epochs", help="planned passes over the cache; the recommended kind depends on it"),
    "batch_size": Flag(key="batch_size", help="sequences per forward; part of the plan"),
    "seed": Flag(key="seed", help="fixes every random number"),
    "device": Flag(key="device", help="auto, cpu, cuda, cuda:1 or mps"),
    "full_hash": Flag(key="load.full_hash"),
}

EXTRAS = {"dry_run": Annotated[bool | None, typer.Option("--dry-run", help="Print what it would take, and stop.")]}


@verb(
    app,
    "cache-logits",
    CacheSettings,
    flags=FLAGS,
    example="thack cache-logits --teacher ./teacher --data responses/ --top-k 64 --out cache/",
    set_example="shard_tokens=65536",
    many=True,
    extras=EXTRAS,
)
def cache_logits(call: Call[CacheSettings]) -> None:
    """Score responses with a teacher once, and keep what it knows in checked shards."""
    from thack.cache.capture.job import capture
    from thack.cache.sizing.estimation import estimate

    if call.extras["dry_run"]:
        found = estimate(call.settings, call.progress)
        call.emit(found.dump(), lambda: _show_estimate(found))
        return
    directory = capture(call.settings, call.progress)
    call.emit(
        {"out": str(directory)},
        lambda: out().print(f"cache: {directory} · look inside with: thack cache inspect {directory}"),
    )


def _show_estimate(found: CaptureEstimate) -> None:
    most = "at most " if found.is_upper_bound else ""
    rows = {
        "sequences": count(found.sequences),
        "tokens": f"{most}{count(found.tokens)}"
        + (f", likely {count(found.expected_tokens)}" if found.is_upper_bound else ""),
        "shards": count(found.shards),
        "bytes": f"{most}{byte_size(found.bytes)} ({count(found.bytes_per_token)} a token)",
        "time": f"about {duration(found.seconds)} for one process like this"
        f" ({count(round(found.tokens_per_s))} tokens/s)",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows.items():
        table.add_row(name, value)
    out().print(table)
    out().print(f"nothing was written to {found.out}")
