"""thack cache: look inside, prove, size, and exchange caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from thack.cli.app import app
from thack.cli.console import byte_size, count, duration, number, out, print_json
from thack.cli.verbs import Call, Command, Flag, Json, Quiet, Verbose, epilog, shown_progress, verb
from thack.config import CacheSettings
from thack.errors import CacheError
from thack.schema.cache import ProbeResult

group = typer.Typer(
    name="cache", help="Look inside, prove, size and exchange caches.", no_args_is_help=True, rich_markup_mode="rich"
)
app.add_typer(group, name="cache")

Directory = Annotated[Path, typer.Argument(help="Directory of the cache.", show_default=False)]


@group.command("inspect", epilog=epilog("thack cache inspect cache/"), cls=Command)
def inspect(directory: Directory, as_json: Json = False, verbose: Verbose = False) -> None:
    """Show what a cache holds, what made it, and which losses it serves."""
    from thack.cache import inspect as look

    found = look(directory)
    if as_json:
        print_json(found.dump())
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in found.dump().items():
        for key, one in value.items() if isinstance(value, dict) else [("", value)]:
            table.add_row(
                Text(name.replace("_", " ") if not key else f"{name}: {key}", style="bold"), Text(_said(name, one))
            )
    out().print(table)


@group.command("verify", epilog=epilog("thack cache verify cache/ --full"), cls=Command)
def verify(
    directory: Directory,
    full: Annotated[bool, typer.Option("--full", help="Read every byte, not only what frames the shards.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check every shard; damage is listed by file and cause, and gives exit code 1."""
    from thack.cache import verify as check

    with shown_progress(quiet) as progress:
        found = check(directory, full=full, progress=progress)
    if as_json:
        print_json(found.dump())
    if found.ok:
        if not as_json:
            sizes = f"{count(found.tokens)} tokens, {byte_size(found.bytes)}"
            out().print(
                f"{count(found.shards)} shards, {sizes}, all intact{'' if full else ' (framing; --full reads all)'}"
            )
        return
    if as_json:
        raise typer.Exit(1)
    damaged = [f"{entry.file}: {entry.cause}" for entry in found.damaged]
    shards = sum(entry.shard is not None for entry in found.damaged)
    said = f"{shards} of {found.shards} shards are missing or damaged" if shards else "its manifest is damaged"
    raise CacheError(
        f"{directory}: {said}",
        details=[*damaged[:20], *(["…"] if len(damaged) > 20 else [])],
        hint="run the same thack cache-logits again: it makes these shards anew, and only these" if shards else None,
    )


PROBE_FLAGS = {
    "teacher": Flag(key="teacher", help="directory of the teacher"),
    "data": Flag(key="data.path"),
    "limit": Flag(key="data.limit"),
    "generate": Flag(key="generate", help="write the responses with the teacher first"),
    "epochs": Flag(key="epochs", help="planned passes over the cache"),
    "batch_size": Flag(key="batch_size", help="sequences per forward"),
    "device": Flag(key="device", help="auto, cpu, cuda, cuda:1 or mps"),
}

PROBE_EXTRAS = {
    "tokens": Annotated[
        float | None,
        typer.Option("--tokens", metavar="N", help="Size a corpus of so many response tokens, as 1e12."),
    ]
}


@verb(
    group,
    "probe",
    CacheSettings,
    flags=PROBE_FLAGS,
    example="thack cache probe --teacher ./teacher --data responses/ --epochs 1",
    set_example="data.max_response_tokens=256",
    extras=PROBE_EXTRAS,
)
def probe(call: Call[CacheSettings]) -> None:
    """Score a sample and compare what could be kept of it: mass, loss, bytes, and what to choose."""
    from thack.cache import probe as measure

    tokens = call.extras["tokens"]
    found = measure(call.settings, tokens=tokens or 0, progress=call.progress)
    call.emit(found.dump(), lambda: _show_probe(found, sizing=tokens is not None))


def _show_probe(found: ProbeResult, *, sizing: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "ids", "retained mass", "KL if renormalised", "bytes/token", "this corpus", ""):
        table.add_column(name, justify="left" if name in ("kind", "") else "right")
    chosen = found.recommended
    for row in found.rows:
        best = (row.kind, row.ids) == (chosen.kind, chosen.ids)
        kl = "unbiased" if row.kind == "sampled" else number(row.kl_renormalised)
        size = byte_size(row.corpus_gb * 1e9)
        mark = f"← recommended for {found.epochs} epoch{'s' if found.epochs > 1 else ''}" if best else ""
        cells = (row.kind, count(row.ids), number(row.retained_mass), kl, count(row.bytes_per_token), size)
        table.add_row(*cells, mark, style="bold" if best else None)
    out().print(table)
    out().print(f"{chosen.why} · measured on {count(found.sampled_tokens)} tokens")
    if sizing:
        _show_sizing(found)


def _show_sizing(found: ProbeResult) -> None:
    out().print(f"\n{count(found.corpus_tokens)} tokens:")
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "ids", "size", "shards", "inodes", "write/node", "read/GPU", "teacher, one process"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for row in found.sizing:
        rates = [f"{byte_size(rate * 1e6)}/s" for rate in (row.write_mb_per_s_per_node, row.read_mb_per_s_per_gpu)]
        sizes = (byte_size(row.bytes), count(row.shards), count(row.inodes))
        time = duration(3600 * row.teacher_hours_per_process)
        table.add_row(row.kind, count(row.ids), *sizes, *rates, time)
    out().print(table)
    out().print(
        f"a node: {found.processes_per_node} processes like this one,"
        f" at {count(found.teacher_tokens_per_s)} tokens/s each"
        f" · a GPU in training: {count(found.student_tokens_per_s)} tokens/s"
    )


@group.command("export", epilog=epilog("thack cache export cache/ plain/"), cls=Command)
def export(
    directory: Directory,
    target: Annotated[Path, typer.Argument(help="Directory for the plain files.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a cache as plain safetensors that need nothing of thack to be read."""
    from thack.cache import export_cache

    with shown_progress(quiet) as progress:
        written = export_cache(directory, target, progress)
    print_json({"files": [str(path) for path in written]}) if as_json else out().print(
        f"{count(len(written))} files in {target}"
    )


@group.command(
    "import",
    epilog=epilog("thack cache import rows.jsonl cache/ --tokenizer ./student --vocab-size 32000"),
    cls=Command,
)
def import_(
    source: Annotated[
        Path, typer.Argument(help="JSONL with prompt_logprobs, or safetensors or Parquet.", show_default=False)
    ],
    target: Annotated[Path, typer.Argument(help="Directory of the new cache.", show_default=False)],
    tokenizer: Annotated[Path, typer.Option(help="Model directory whose tokenizer made the ids.", show_default=False)],
    vocab_size: Annotated[int, typer.Option(help="Width of the teacher's logits.", show_default=False)],
    top_k: Annotated[int, typer.Option(help="Ids kept per token; 0: as many as every row has.")] = 0,
    estimate_tail: Annotated[bool, typer.Option(help="Take 1 − Σp as the tail; else it is unknown.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a top-k cache of another tool's rows, such as an API's top log-probs."""
    from thack.cache import ImportSettings, import_cache
    from thack.data.tokenizer import Tokenizer

    settings = ImportSettings(
        source=source,
        out=target,
        vocab_size=vocab_size,
        tokenizer=Tokenizer.load(tokenizer).fingerprint(),
        top_k=top_k,
        estimate_tail=estimate_tail,
    )
    with shown_progress(quiet) as progress:
        directory = import_cache(settings, progress)
    print_json({"out": str(directory)}) if as_json else out().print(f"cache: {directory}")


def _said(name: str, value: Any) -> str:
    if value is None:
        return "not yet known: shards are missing"
    if name == "bytes":
        return byte_size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return count(value) if isinstance(value, int) else str(value)
