"""Top-k caches from rows of ids and log-probabilities that other tools write.

Such rows have k ids with their log-probabilities and mostly no tail. It is then estimated as 1 − Σ of the kept ids, in
float64 and before anything is quantised, and the cache says so in its record layout. With `estimate_tail=False` the
cache has no tail, and no divergence is defined on it. An exported cache has its own tails, and they are kept.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from thack import _native, _version
from thack.cache.capture.preparation import prepare_directory
from thack.cache.exchange.packing import pack, realised
from thack.cache.exchange.readers import read_rows
from thack.cache.exchange.source_row import SourceRow
from thack.cache.exchange.survey import Processing, Survey, completed, without_padded
from thack.cache.exchange.tails import RowTail
from thack.cache.format.ends import write_ends
from thack.cache.format.layout import RecordLayout
from thack.cache.format.manifest import finish, shard_is_good
from thack.cache.format.partition import ShardLimits, partition
from thack.cache.format.plan import CachePlan, publish_plan, shard_path
from thack.cache.format.tokenizer import write_tokenizer
from thack.data.eos import EndCounts, Ends
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, UsageError
from thack.runtime.lock import locked
from thack.runtime.progress import SILENT, Progress
from thack.runtime.ranks import Rank
from thack.schema.cache import Fingerprints
from thack.schema.targets import Tail, TargetSpec
from thack.serving.answers import check_entry
from thack.targets.vocabulary import common_width


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """What to import, and what its numbers mean.

    Args:
        source: JSONL with prompt_logprobs or logprobs, or safetensors or Parquet with ids and logprobs.
        out: directory of the new cache.
        vocab_size: width of the teacher's logits, ≥ 1.
        tokenizer: fingerprint of the tokenizer whose ids these are.
        tokenizer_size: number of its ids; 0: as many as `vocab_size`. Padded ids, at or above it, take no part.
        tokenizer_files: the tokenizer itself, which the cache then holds; None: it holds none.
        ends: which of its ids end a response; None: how responses end is not counted.
        teacher: fingerprint of the teacher, if it is known.
        top_k: ids kept per token; 0: as many as every row has.
        estimate_tail: take 1 − Σ of the kept probabilities as the tail mass where the source says none; False: the
            cache has no tail.
        logprobs: raw: log-softmax of the teacher's logits; processed: after a temperature, top-k, top-p or a mask, so
            that forward KL alone is defined; auto: raw, and rows that leave no tail or are of another text are refused.
        packed_config: how the bytes of a packed Parquet file are laid out; None: compression_config.yaml beside it.
        complete_ends: put an end behind each response that its server says it stopped, with all mass on it.
        shard_tokens: most response tokens of one shard, ≥ 1.
        shard_bytes: most bytes of one shard, about, ≥ 1.
    """

    source: Path
    out: Path
    vocab_size: int
    tokenizer: str
    tokenizer_size: int = 0
    tokenizer_files: Tokenizer | None = None
    ends: Ends | None = None
    teacher: str = "imported"
    top_k: int = 0
    estimate_tail: bool = True
    logprobs: Processing = "auto"
    packed_config: Path | None = None
    complete_ends: bool = False
    shard_tokens: int = 1 << 20
    shard_bytes: int = 1 << 28

    @property
    def width(self) -> int:
        """The number of ids that records are over."""
        return common_width(self.tokenizer_size or self.vocab_size, teacher=self.vocab_size)


def import_cache(settings: ImportSettings, progress: Progress = SILENT) -> Path:
    """Write a top-k cache of another tool's rows, or resume it.

    The source is read twice, a sequence at a time: once to check every row and to plan, before anything is written,
    and once to write. So memory does not grow with it.

    Args:
        settings: what to import.
        progress: counts sequences.

    Returns:
        The directory of the cache.

    Raises:
        DataError: the source is missing, or a row is malformed or contradicts itself; names the place.
        UsageError: `vocab_size`, `top_k` or the source's suffix is not accepted, or `out` holds something else.
        MismatchError: `out` holds another cache, or the tokenizer has more ids than the vocabulary.

    Example:
        >>> import json
        >>> from tempfile import TemporaryDirectory
        >>> from thack.cache.format.reader import Cache
        >>> rows = [None, {"5": -0.1, "7": -3.0}, {"0": -0.2, "5": -2.0}]
        >>> row = {"prompt_token_ids": [3, 5, 0], "prompt_length": 1, "prompt_logprobs": rows}
        >>> with TemporaryDirectory() as scratch:
        ...     source, out = Path(scratch) / "rows.jsonl", Path(scratch) / "cache"
        ...     _ = source.write_text(json.dumps(row))
        ...     settings = ImportSettings(source=source, out=out, vocab_size=10, tokenizer="sha256:…")
        ...     cache = Cache.open(import_cache(settings))
        ...     cache.targets([0])[1].ids_NK.tolist()
        [[5, 7], [0, 5]]
    """
    _check(settings)
    read_rows(settings.source, settings.packed_config)  # refuses a missing file and an unknown suffix
    with locked(settings.out, progress, part=Rank().part):  # as the first rank of a capture
        _import(settings, progress)
    return settings.out


def _import(settings: ImportSettings, progress: Progress) -> None:
    prepare_directory(settings.out)
    survey = _survey(settings)
    notes = [f"warning: {warning}" for warning in survey.ends.warnings()]
    for note in (*survey.found.notes(top_k=settings.top_k), *notes):
        progress.note(note)
    plan = publish_plan(settings.out, _plan(settings, survey))
    if settings.ends is not None:
        write_ends(settings.out, settings.ends, 0)
    if settings.tokenizer_files is not None:
        write_tokenizer(settings.out, settings.tokenizer_files)
    wanted = [shard for shard in range(plan.num_shards) if not shard_is_good(settings.out, plan, shard)]
    if wanted:
        rows = _unchanged(settings.source, survey, _rows(settings))
        with progress.task("import", plan.num_sequences, "sequences") as task:
            for shard in range(wanted[-1] + 1):
                positions = plan.shard(shard)
                if shard in wanted:
                    _write(settings.out, plan, shard, islice(rows, len(positions)))
                else:
                    deque(islice(rows, len(positions)), maxlen=0)  # read past them
                task.advance(len(positions))
    finish(settings.out, plan)


def _check(settings: ImportSettings) -> None:
    if settings.vocab_size < 1:
        raise UsageError(f"vocab_size = {settings.vocab_size}: must be at least 1")
    if settings.top_k < 0:
        raise UsageError(f"top_k = {settings.top_k}: must be at least 1, or 0 for as many as every row has")
    if settings.complete_ends and settings.ends is None:
        raise UsageError("complete_ends needs ends: those of the tokenizer")
    _ = settings.width  # refuses a vocabulary that is smaller than the tokenizer


@dataclass(slots=True, kw_only=True)
class _Surveyed:
    """What the plan needs of the source. It grows with the number of sequences alone.

    Args:
        width: ids that every response token has.
        lengths: of prompt and response, in turn.
        data: fingerprint of the tokens.
        content: fingerprint of ids and log-probabilities.
        state: of the file, to see that it is not changed.
        ends: how responses end.
        found: counts to report.
        tail: of any row, since all are of one kind; None: the source says nothing of its tails.
    """

    width: int
    lengths: array[int]
    data: str
    content: str
    state: tuple[int, ...]
    ends: EndCounts
    found: Survey
    tail: RowTail | None


def _rows(settings: ImportSettings) -> Iterator[SourceRow]:
    """The rows of the source, with the ends that are to be put behind them."""
    for given in read_rows(settings.source, settings.packed_config):
        row = without_padded(given, settings.width)
        yield completed(row, settings.ends) if settings.ends and settings.complete_ends else row


def _survey(settings: ImportSettings) -> _Surveyed:
    """Read and check every row."""
    lengths, content = array("q"), hashlib.sha256()
    ended: Counter[str] = Counter()
    tails: list[RowTail | None] = [None]
    state = _state(settings.source)
    found = Survey(settings.logprobs, settings.width)

    def sequences() -> Iterator[TokenSequence]:
        for source_row in read_rows(settings.source, settings.packed_config):
            _check_row(source_row, settings)
            row = without_padded(source_row, settings.width)
            found.padded += sum(len(ids) for ids, _ in source_row.entries) - sum(len(ids) for ids, _ in row.entries)
            _check_width(row, settings)
            found.add(row, str(settings.source))
            if settings.ends is not None and settings.complete_ends:
                given, row = len(row.entries), completed(row, settings.ends)
                found.completed += len(row.entries) - given
            lengths.extend((len(row.sequence.prompt_ids), len(row.sequence.response_ids)))
            for ids, log_probs in row.entries:
                content.update(b"%d " % len(ids))
                content.update(ids.tobytes())
                content.update(log_probs.tobytes())
            if row.tail is not None:
                tails[0] = row.tail
                for values in (row.tail.at_one, *row.tail.further.values()):
                    content.update(values.tobytes())
            ended[_ending(row, settings.ends)] += 1
            yield row.sequence

    data = data_fingerprint(sequences())
    if not lengths:
        raise DataError(f"{settings.source}: holds no sequence")
    found.check(str(settings.source))
    return _Surveyed(
        width=min(found.widths),
        lengths=lengths,
        data=data,
        content=f"sha256:{content.hexdigest()}",
        state=state,
        ends=EndCounts(responses=ended.total(), finished=ended["finished"], truncated=ended["truncated"]),
        found=found,
        tail=tails[0],
    )


def _ending(row: SourceRow, ends: Ends | None) -> str:
    """How a response ended: finished, truncated at the server's maximum, or without the end at which it stopped."""
    if ends is None or ends.is_finished(row.sequence.response_ids):
        return "finished"
    return "truncated" if row.finish_reason == "length" else "dropped"


def _state(source: Path) -> tuple[int, ...]:
    """Differs once a file is replaced or written to; empty for a missing one, which `read_rows` refuses."""
    if not source.is_file():
        return ()
    found = source.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _unchanged(source: Path, survey: _Surveyed, rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
    """The rows, as long as the source is the one that was planned for."""
    for row in chain(rows, [None]):
        if _state(source) != survey.state:
            raise DataError(f"{source} was changed while it was imported", hint="run the same command again")
        if row is not None:
            yield row


def _check_row(row: SourceRow, settings: ImportSettings) -> None:
    for ids in (row.sequence.prompt_ids, row.sequence.response_ids):
        if ids.max() >= settings.width:
            raise DataError(
                f"{settings.source}: {row.place}: token {ids.max():,} is outside the vocabulary of {settings.width:,}",
                hint="`vocab_size` must be the width of the teacher's logits, and the ids those of its tokenizer",
            )
    for n, entry in enumerate(row.entries):
        place = f"{settings.source}: {row.place}, response token {n}"
        check_entry(entry, 1, settings.vocab_size, place)


def _check_width(row: SourceRow, settings: ImportSettings) -> None:
    """Refuse a row with fewer ids than are kept, once padded ones have left it."""
    for n, (ids, _) in enumerate(row.entries):
        if len(ids) < settings.top_k:
            raise DataError(
                f"{settings.source}: {row.place}, response token {n}: {len(ids)} entries, expected {settings.top_k}",
                hint="lower `top_k`, or leave it out to keep as many ids as every row has; padded ids do not count",
            )


def _plan(settings: ImportSettings, survey: _Surveyed) -> CachePlan:
    spec = TargetSpec(kind="top-k", k=settings.top_k or survey.width, tail="none")
    if settings.estimate_tail:
        kind: Tail = survey.tail.kind if survey.tail is not None else "estimated"
        spec = replace(
            spec,
            tail="processed" if settings.logprobs == "processed" else kind,
            temperatures=tuple(survey.tail.further) if survey.tail is not None else (),
        )
    layout = RecordLayout(spec=spec, vocab_size=settings.width)
    limits = ShardLimits(tokens=settings.shard_tokens, bytes=settings.shard_bytes)
    lengths = zip(survey.lengths[::2], survey.lengths[1::2], strict=True)
    return CachePlan(
        layout=layout,
        fingerprints=Fingerprints(
            teacher=settings.teacher, tokenizer=settings.tokenizer, data=survey.data, settings=survey.content
        ),
        firsts=partition(lengths, layout.bytes_per_token, limits),
        batch_size=1,
        seed=0,
        samples=1,
        device="none",
        dtype="float32",
        threads=1,
        build=_version.__version__,
    )


def _write(directory: Path, plan: CachePlan, shard: int, rows: Iterator[SourceRow]) -> None:
    """Write a shard from the next rows."""
    writer = _native.ShardWriter(shard_path(directory, shard), plan.metadata(shard))
    try:
        for position, row in zip(plan.shard(shard), rows, strict=True):
            records = pack(row.entries, plan.layout, row.place, row.tail)
            writer.records(records)
            s = row.sequence
            writer.sequence((position, s.example, s.sample), s.prompt_id, s.prompt_ids, s.response_ids, realised(row))
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
