"""thack cache-logits: score responses with a teacher, and store its distributions."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import byte_size, count, duration, stdout
from thack.cli.session import emit
from thack.config import CacheSettings
from thack.schema.cache_size import CaptureEstimate

FLAGS = (
    Flag(key="teacher"),
    Flag(key="server.url", name="server"),
    Flag(key="server.model", name="model"),
    Flag(key="server.tokenizer", name="tokenizer"),
    Flag(key="data.path", name="data"),
    Flag(key="data.prompt_key"),
    Flag(key="data.response_key"),
    Flag(key="data.max_prompt_tokens"),
    Flag(key="data.max_response_tokens"),
    Flag(key="data.on_bad_line"),
    Flag(key="out"),
    Flag(key="kind"),
    Flag(key="top_k", implies={"kind": "top-k"}),
    Flag(key="temperatures"),
    Flag(key="sampled", implies={"kind": "sampled"}),
    Flag(key="student", implies={"kind": "projected"}),
    Flag(key="data.limit"),
    Flag(key="generate"),
    Flag(key="samples"),
    Flag(key="epochs"),
    Flag(key="batch_size"),
    Flag(key="seed"),
    Flag(key="device"),
    Flag(key="load.full_hash"),
)

DRY_RUN = Annotated[bool | None, typer.Option("--dry-run", help="Print the expected size and time, and stop.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="cache-logits",
        settings=CacheSettings,
        run=run,
        flags=FLAGS,
        example="thack cache-logits --teacher ./teacher --data responses/ --top-k 64",
        set_example="shard_tokens=65536",
        parameters={"dry_run": DRY_RUN},
        many=True,
    ).add_to(app)


def run(call: Call[CacheSettings]) -> None:
    """Score responses with a teacher once, and store its log-probabilities in shards with checksums."""
    if call.values["dry_run"]:
        found = api.estimate_cache(call.settings, progress=call.progress)
        emit(found.dump(), lambda: _show_estimate(found))
        return
    directory = api.cache_logits(call.settings, progress=call.progress)
    emit(
        {"out": str(directory)},
        lambda: stdout().print(f"cache: {directory} · look inside with: thack cache inspect {directory}"),
        out=directory,
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
    stdout().print(table)
    stdout().print(f"nothing was written to {found.out}")
