"""thack cache: inspect, verify, size and exchange caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand, add_command
from thack.cli.console import byte_size, count, duration, number, stdout
from thack.cli.doctor import show_findings
from thack.cli.parsing import KnownGroup
from thack.cli.session import emit, session, shown_progress
from thack.config import CacheSettings
from thack.errors import CacheError, UsageError, plural
from thack.schema.cache_content import MOST_MISSING, TeacherNll, Verification
from thack.schema.cache_size import ProbeResult

EXPORT_HELP = (
    "Kind of the files: safetensors | parquet | axolotl (Parquet with the columns of its KD trainer). "
    "[dim]\\[safetensors][/]"
)
TOP_K_HELP = "Ids stored per token (0 = as many as every row has). [dim]\\[0][/]"
TAIL_HELP = "Take 1 − Σp as the tail mass where none is given, or have no tail. [dim]\\[estimate-tail][/]"
LOGPROBS_HELP = (
    "What the numbers are: auto | raw | processed; auto refuses rows that were processed without notice. "
    "[dim]\\[auto][/]"
)
Directory = Annotated[Path, typer.Argument(help="Directory of the cache.", show_default=False)]

PROBE_FLAGS = (
    Flag(key="teacher"),
    Flag(key="student", help="a student: also measure targets for its frozen head, or what its tokenizer costs"),
    Flag(key="data.path", name="data"),
    Flag(key="data.prompt_key"),
    Flag(key="data.response_key"),
    Flag(key="data.max_prompt_tokens"),
    Flag(key="data.max_response_tokens"),
    Flag(key="data.limit"),
    Flag(key="generate"),
    Flag(key="epochs"),
    Flag(key="batch_size"),
    Flag(key="device"),
)
HIDDEN_FLAGS = (
    Flag(key="hidden_states"),
    Flag(key="head_only"),
    Flag(key="teacher"),
    Flag(key="data.path", name="data"),
    Flag(key="out"),
    Flag(key="kind"),
    Flag(key="top_k", implies={"kind": "top-k"}),
    Flag(key="temperatures"),
    Flag(key="sampled", implies={"kind": "sampled"}),
    Flag(key="student", implies={"kind": "projected"}),
    Flag(key="data.limit"),
    Flag(key="batch_size"),
    Flag(key="seed"),
    Flag(key="device"),
)
_BAR = 30  # characters of the longest bar: the table fits into 80 columns
TOKENS = Annotated[
    float | None, typer.Option(metavar="N", help="Size a corpus of this many response tokens, such as 1e12.")
]


def register(app: typer.Typer) -> None:
    """Add the group and its commands."""
    group = typer.Typer(
        name="cache",
        cls=KnownGroup,
        help="Inspect, verify, size and exchange caches.",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    app.add_typer(group, name="cache")
    add_command(group, "inspect", inspect, example="thack cache inspect cache/")
    add_command(group, "verify", verify, example="thack cache verify cache/ --full")
    SettingsCommand(
        name="probe",
        settings=CacheSettings,
        run=probe,
        flags=PROBE_FLAGS,
        example="thack cache probe --teacher ./teacher --data responses/ --epochs 1",
        set_example="data.max_response_tokens=256",
        parameters={"tokens": TOKENS},
    ).add_to(group)
    SettingsCommand(
        name="import-hidden",
        settings=CacheSettings,
        run=import_hidden,
        flags=HIDDEN_FLAGS,
        example="thack cache import-hidden --hidden-states h/ --teacher t/ --data p.jsonl",
        set_example="shard_tokens=65536",
    ).add_to(group)
    add_command(group, "export", export, example="thack cache export cache/ plain/ --to parquet")
    add_command(
        group,
        "import",
        import_,
        example="thack cache import rows.jsonl cache/ --tokenizer s/ --vocab-size 32000",
    )


def inspect(directory: Directory) -> None:
    """Show what a cache contains, how it was written, and which losses it supports."""
    found = api.inspect_cache(directory)

    def show() -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, value in (found.dump() | {"teacher_nll": _nll(found.teacher_nll)}).items():
            for key, one in value.items() if isinstance(value, dict) else [("", value)]:
                label = f"{name}: {key}" if key else name.replace("_", " ")
                if (text := _shown(name, one)) is not None:
                    table.add_row(Text(label, style="bold"), Text(text))
        stdout().print(table)

    emit(found.dump(), show)


def _nll(found: TeacherNll | None) -> dict[str, object] | None:
    """For people: the numbers, and a bar for each bin of the histogram."""
    if found is None:
        return None
    names = ("tokens", "impossible", "absent", "nats_per_token", "nats_per_byte")
    numbers = {name: getattr(found, name) for name in names}
    ends = [f"to {edge:g} nats" for edge in found.edges[1:]] + ["beyond"]
    share = [number / max(found.tokens, 1) for number in found.counts]
    bars = [f"{part:6.1%} {'█' * round(_BAR * part / max(*share, 1e-9))}".rstrip() for part in share]
    return numbers | dict(zip(ends, bars, strict=True))


def verify(
    directory: Directory,
    full: Annotated[bool, typer.Option("--full", help="Read every byte, not only the frame of each shard.")] = False,
) -> None:
    """Check every shard; damage is listed by file and cause, and gives exit code 1."""
    with shown_progress() as progress:
        found = api.verify_cache(directory, full=full, progress=progress)
    if found.ok:
        emit(found.dump(), lambda: _show_intact(found))
    elif session.json:
        emit(found.dump(), lambda: None)
        raise typer.Exit(1)
    else:
        raise _damage(found)


def _show_intact(found: Verification) -> None:
    sizes = f"{count(found.tokens)} tokens, {byte_size(found.bytes)}"
    what = "" if found.full else " (frames only; --full reads every byte)"
    stdout().print(f"{plural(found.shards, 'shard')}, {sizes}, all intact{what}")


def _damage(found: Verification) -> CacheError:
    damaged = [f"{entry.file}: {entry.cause}" for entry in found.damaged]
    named = sum(entry.shard is not None for entry in found.damaged)
    shards = named + found.missing - min(found.missing, MOST_MISSING)
    what = f"{shards} of {found.shards} shards are missing or damaged" if shards else "its manifest is damaged"
    return CacheError(
        f"{found.directory}: {what}",
        details=[*damaged[:20], *(["…"] if len(damaged) > 20 else [])],
        hint="run the same thack cache-logits again: it writes these shards anew, and only these" if shards else None,
    )


def probe(call: Call[CacheSettings]) -> None:
    """Score a sample and compare what a cache could store of it: mass, loss, bytes, and what to choose."""
    tokens = call.values["tokens"]
    found = api.probe_cache(call.settings, tokens=tokens or 0, progress=call.progress)
    emit(found.dump(), lambda: _show_probe(found, sizing=tokens is not None))


def _show_probe(found: ProbeResult, *, sizing: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "ids", "retained mass", "KL lost", "gradient error", "bytes/token", "this corpus", ""):
        table.add_column(name, justify="left" if name in ("kind", "") else "right")
    chosen = found.recommended
    for row in found.rows:
        best = (row.kind, row.ids) == (chosen.kind, chosen.ids)
        kl = "unbiased" if row.kind == "sampled" else number(row.kl_lost)
        moved = number(row.gradient_error) if found.hard_gradient_error else "–"
        size = byte_size(row.corpus_gb * 1e9)
        mark = f"← recommended for {plural(found.epochs, 'epoch')}" if best else ""
        cells = (row.kind, count(row.ids), number(row.retained_mass), kl, moved, count(row.bytes_per_token), size)
        table.add_row(*cells, mark, style="bold" if best else None)
    stdout().print(table)
    stdout().print(f"{chosen.why} · measured on {count(found.sampled_tokens)} tokens")
    if dropped := [f"{number(row.kl_renormalised)} with {row.ids} ids" for row in found.rows if row.kind == "top-k"]:
        stdout().print(
            "KL lost: nats per token that tell the ids of the tail apart; top-k keeps their mass as one number."
            f" Without the tail it would be {', '.join(dropped)}"
        )
    if found.hard_gradient_error:
        stdout().print(
            f"gradient error: how far a record moves the student's gradient, ‖Wᵀp̂ − Wᵀp‖ a token, through the"
            f" {found.head}'s head; the response token alone: {number(found.hard_gradient_error)}"
        )
    if found.another_tokenizer:
        stdout().print("\na student with this tokenizer:")
        show_findings(found.another_tokenizer)
    if sizing:
        _show_sizing(found)


def _show_sizing(found: ProbeResult) -> None:
    stdout().print(f"\n{count(found.corpus_tokens)} tokens:")
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "ids", "size", "shards", "inodes", "write/node", "read/GPU", "teacher, one process"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for row in found.sizing:
        rates = [f"{byte_size(rate * 1e6)}/s" for rate in (row.write_mb_per_s_per_node, row.read_mb_per_s_per_gpu)]
        sizes = (byte_size(row.bytes), count(row.shards), count(row.inodes))
        time = duration(3600 * row.teacher_hours_per_process)
        table.add_row(row.kind, count(row.ids), *sizes, *rates, time)
    stdout().print(table)
    stdout().print(
        f"a node: {found.processes_per_node} processes like this one,"
        f" at {count(found.teacher_tokens_per_s)} tokens/s each"
        f" · a GPU in training: {count(found.student_tokens_per_s)} tokens/s"
    )


def export(
    directory: Directory,
    target: Annotated[Path, typer.Argument(help="Directory for the plain files.", show_default=False)],
    to: Annotated[
        Literal["safetensors", "parquet", "axolotl"],
        typer.Option(help=EXPORT_HELP, metavar="WORD", show_default=False),
    ] = "safetensors",
) -> None:
    """Write a cache as plain files that need nothing of thack to be read."""
    with shown_progress() as progress:
        written = api.export_cache(directory, target, to=to, progress=progress)
    files = [str(path) for path in written]
    emit({"files": files}, lambda: stdout().print(f"{plural(len(files), 'file')} in {target}"), out=target)


def import_(
    source: Annotated[
        Path, typer.Argument(help="JSONL with prompt_logprobs, or safetensors or Parquet.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="Directory of the new cache.", show_default=False)],
    tokenizer: Annotated[Path, typer.Option(help="Model directory with the tokenizer of the ids.", show_default=False)],
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Width of the teacher's logits.", show_default=False)],
    top_k: Annotated[int, typer.Option(metavar="N", help=TOP_K_HELP, show_default=False)] = 0,
    estimate_tail: Annotated[
        bool, typer.Option("--estimate-tail/--no-tail", help=TAIL_HELP, show_default=False)
    ] = True,
    logprobs: Annotated[
        Literal["auto", "raw", "processed"],
        typer.Option(help=LOGPROBS_HELP, metavar="WORD", show_default=False),
    ] = "auto",
    packed_config: Annotated[
        Path | None,
        typer.Option(help="DistillKit's compression config of a packed Parquet file, if it is not beside it."),
    ] = None,
    complete_ends: Annotated[
        bool, typer.Option("--complete-ends", help="Put an end behind responses that stopped without one.")
    ] = False,
) -> None:
    """Write the rows of another tool, such as an API's top log-probs, as a top-k cache."""
    with shown_progress() as progress:
        directory = api.import_cache(
            source,
            out,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            top_k=top_k,
            estimate_tail=estimate_tail,
            logprobs=logprobs,
            packed_config=packed_config,
            complete_ends=complete_ends,
            progress=progress,
        )
    emit({"out": str(directory)}, lambda: stdout().print(f"cache: {directory}"), out=directory)


def import_hidden(call: Call[CacheSettings]) -> None:
    """Write a cache from the hidden states that an inference engine has written, through the teacher's own head."""
    if not call.settings.hidden_states:
        raise UsageError(
            "no hidden states are given", hint="set `hidden_states` to the directory that the engine wrote"
        )
    directory = api.cache_logits(call.settings, progress=call.progress)
    emit({"out": str(directory)}, lambda: stdout().print(f"cache: {directory}"), out=directory)


def _shown(name: str, value: object) -> str | None:
    """A value for people; None where it has no meaning for this kind of cache."""
    if (name == "exact_tail" and value is None) or (name == "temperatures" and not value):
        return None
    if value is None:
        known = name not in ("finished", "truncated", "teacher_nll")
        return "not yet known: shards are missing" if known else "not known"
    if name in ("finished", "truncated") and isinstance(value, float):
        return f"{value:.1%} of responses"
    if name == "teacher_nll" and isinstance(value, float):
        return f"{value:.4f}"
    if name == "bytes" and isinstance(value, int):
        return byte_size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return count(value) if isinstance(value, int) else str(value)
