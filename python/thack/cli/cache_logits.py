"""thack cache-logits: score responses with a teacher and keep what it knows."""

from __future__ import annotations

from thack.cli.app import app
from thack.cli.console import out
from thack.cli.verbs import Call, Flag, verb
from thack.config.settings import CacheSettings

FLAGS = {
    "teacher": Flag(key="teacher", help="directory of the teacher"),
    "data": Flag(key="data.path"),
    "on_bad_line": Flag(key="data.on_bad_line"),
    "out": Flag(key="out", help="directory of the cache; run again to go on"),
    "kind": Flag(key="kind", help="what is kept of each distribution"),
    "top_k": Flag(key="top_k", help="keep the so many most likely ids and the exact tail", implies={"kind": "top-k"}),
    "sampled": Flag(key="sampled", help="keep so many ids of an unbiased sample", implies={"kind": "sampled"}),
    "generate": Flag(key="generate"),
    "samples": Flag(key="samples", help="responses per prompt, with --generate"),
    "epochs": Flag(key="epochs", help="planned passes over the cache; the recommended kind depends on it"),
    "batch_size": Flag(key="batch_size", help="sequences per forward; part of the plan"),
    "seed": Flag(key="seed", help="fixes every random number"),
    "device": Flag(key="device", help="auto, cpu, cuda, cuda:1 or mps"),
}


@verb(
    app,
    "cache-logits",
    CacheSettings,
    flags=FLAGS,
    example="thack cache-logits --teacher ./teacher --data responses/ --top-k 64 --out cache/",
    set_example="temperatures=\\[2.0]",
    records=True,
    many=True,
)
def cache_logits(call: Call[CacheSettings]) -> None:
    """Score responses with a teacher once, and keep what it knows in checked shards."""
    from thack.cache.capture import capture

    directory = capture(call.settings, call.progress)
    call.emit(
        {"out": str(directory)},
        lambda: out().print(f"cache: {directory} · look inside with: thack cache inspect {directory}"),
    )
