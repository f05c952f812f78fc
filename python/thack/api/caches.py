"""Caches of a teacher's predictions: write, estimate, inspect, verify, import and export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thack.config import CacheSettings, checked
from thack.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from thack.schema.cache_content import Inspection, Verification
    from thack.schema.cache_size import CaptureEstimate, ProbeResult


def cache_logits(settings: CacheSettings, *, progress: Progress = SILENT) -> Path:
    """Score responses with a teacher, here or behind a server, and store its distributions in checked shards.

    Several processes may run it together on one `out`; one that was stopped is resumed.

    Args:
        settings: Teacher, data, what is stored; see `CacheSettings`.
        progress: Where progress goes.

    Returns:
        The directory of the cache; `thack.Cache.open` reads it.

    Raises:
        UsageError: No teacher or no sequences, or more ids than the vocabulary has.
        MismatchError: `out` is a cache with another plan, or the server runs another teacher than before.
        ServerError: A server that gives no usable answer.

    Example:
        >>> data = thack.DataSettings(path="responses")
        >>> settings = thack.CacheSettings(teacher="runs/teacher/model", data=data, top_k=8, out=Path("cache"))
        >>> len(thack.Cache.open(thack.cache_logits(settings)))
        8
    """
    from thack.checks import check_capture

    settings = check_capture(checked(settings))
    if settings.server.url:
        from thack.cache.served.job import capture_served

        return capture_served(settings, progress)
    if settings.hidden_states:
        from thack.cache.exchange.hidden import import_hidden

        return import_hidden(settings, progress)
    from thack.cache.capture.job import capture

    return capture(settings, progress)


def estimate_cache(settings: CacheSettings, *, progress: Progress = SILENT) -> CaptureEstimate:
    """What `cache_logits` would write and take with these settings; nothing is written.

    Args:
        settings: As for `cache_logits`.
        progress: Where progress goes.

    Returns:
        Sequences, tokens, shards, bytes and seconds, measured on a few batches.

    Raises:
        UsageError: No teacher or no sequences, or more ids than the vocabulary has.

    Example:
        >>> data = thack.DataSettings(path="responses")
        >>> thack.estimate_cache(thack.CacheSettings(teacher="runs/teacher/model", data=data)).sequences
        8
    """
    from thack.checks import check_capture

    settings = check_capture(checked(settings), writes=False)
    from thack.cache.sizing.estimation import estimate

    return estimate(settings, progress)


def probe_cache(settings: CacheSettings, *, tokens: float = 0, progress: Progress = SILENT) -> ProbeResult:
    """Score a sample of the data, and compare what a cache could store of it.

    Args:
        settings: Teacher and data; `epochs`, the planned passes, decides what is recommended.
        tokens: Response tokens of a corpus to size, up to 1e18; 0: the data at hand.
        progress: Where progress goes.

    Returns:
        Per kind of cache: retained mass, loss of truncation in nats, bytes; and which is recommended.

    Raises:
        UsageError: No teacher or no sequences.

    Example:
        >>> data = thack.DataSettings(path="responses")
        >>> settings = thack.CacheSettings(teacher="runs/teacher/model", data=data, epochs=1)
        >>> thack.probe_cache(settings).recommended.kind
        'sampled'
    """
    from thack.checks import check_capture

    settings = check_capture(checked(settings), writes=False)
    from thack.cache import probe

    return probe(settings, tokens=tokens, progress=progress)


def inspect_cache(directory: str | Path) -> Inspection:
    """What a cache contains, how it was written, and which losses it supports. Reads no record.

    Args:
        directory: Of the cache.

    Returns:
        Whether it is complete, its kind and sizes, fingerprints, the losses that are defined on it, and how its
        responses end.

    Raises:
        CacheError: It is no cache.

    Example:
        >>> thack.inspect_cache("cache").kind
        'top-k'
    """
    from thack.cache import inspect

    return inspect(directory)


def verify_cache(directory: str | Path, *, full: bool = False, progress: Progress = SILENT) -> Verification:
    """Check every shard of a cache.

    Args:
        directory: Of the cache.
        full: Read every byte, not only the frame of each shard.
        progress: Where progress goes.

    Returns:
        Whether all is intact, and each damaged file with its cause.

    Raises:
        CacheError: It is no cache.

    Example:
        >>> thack.verify_cache("cache", full=True).ok
        True
    """
    from thack.cache import verify

    return verify(directory, full=full, progress=progress)


def export_cache(
    directory: str | Path,
    out: str | Path,
    *,
    to: Literal["safetensors", "parquet", "axolotl"] = "safetensors",
    progress: Progress = SILENT,
) -> list[Path]:
    """Write a cache as plain files that need nothing of thack to be read.

    Args:
        directory: Of the cache.
        out: Directory of the plain files; new or empty.
        to: safetensors; parquet: a row for each sequence; axolotl: Parquet with the columns of its KD trainer.
        progress: Where progress goes.

    Returns:
        The files.

    Raises:
        CacheError: It is no complete cache.
        UsageError: `out` is not empty, or the cache's kind has no such form.

    Example:
        >>> [path.suffix for path in thack.export_cache("cache", "plain")]
        ['.safetensors']
    """
    from thack.cache import export_cache as export

    return export(directory, out, progress, to)


def import_cache(
    source: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path,
    vocab_size: int,
    top_k: int = 0,
    estimate_tail: bool = True,
    logprobs: Literal["auto", "raw", "processed"] = "auto",
    packed_config: str | Path | None = None,
    complete_ends: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Write the rows of another tool, such as an API's top log-probs, as a top-k cache.

    Args:
        source: JSONL with prompt_logprobs, or safetensors or Parquet with ids and log-probs.
        out: Directory of the new cache.
        tokenizer: Model directory with the tokenizer of the ids.
        vocab_size: Width of the teacher's logits.
        top_k: Ids stored per token; 0: as many as every row has.
        estimate_tail: Take 1 − Σp as the tail mass where the source says none; False: The cache has no tail.
        logprobs: raw: log-softmax of the logits; processed: after a temperature, top-k, top-p or a mask, so that
            forward KL alone is defined; auto: raw, and rows that leave no tail are refused.
        packed_config: DistillKit's compression config of a packed Parquet file; by default the one beside it.
        complete_ends: Put an end behind responses that stopped without one.
        progress: Where progress goes.

    Returns:
        The directory of the cache.

    Raises:
        DataError: A row that cannot be read, or an id outside the vocabulary.

    Example:
        >>> files = thack.export_cache("cache", "rows")
        >>> thack.import_cache(files[0], "imported", tokenizer="runs/teacher/model", vocab_size=320)
        PosixPath('imported')
    """
    from thack.cache import ImportSettings
    from thack.cache import import_cache as run
    from thack.data.tokenizer import Tokenizer

    ids = Tokenizer.load(Path(tokenizer))
    settings = ImportSettings(
        source=Path(source),
        out=Path(out),
        vocab_size=vocab_size,
        tokenizer=ids.fingerprint(),
        tokenizer_size=ids.size,
        tokenizer_files=ids,
        ends=ids.ends,
        top_k=top_k,
        estimate_tail=estimate_tail,
        logprobs=logprobs,
        packed_config=None if packed_config is None else Path(packed_config),
        complete_ends=complete_ends,
    )
    return run(settings, progress)
