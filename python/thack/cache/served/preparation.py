"""What is fixed before the first answer: tokenizer, data, plan, and which teacher the server runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thack import _native
from thack.cache.capture.data import CaptureData
from thack.cache.capture.preparation import begin_cache, capture_data, plan_of
from thack.cache.format.layout import RecordLayout
from thack.cache.format.plan import CachePlan
from thack.config import CacheSettings, SamplingSettings, ServerSettings
from thack.data.date import with_settings
from thack.data.sequence import TokenSequence
from thack.data.teacher_prompt import refuse_teacher_prompts
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, UsageError
from thack.files import canonical_json, digest
from thack.reading import read_json
from thack.runtime.progress import Progress
from thack.runtime.ranks import Rank, current_rank
from thack.schema.serving import ServedTeacher
from thack.schema.targets import Tail, TargetSpec
from thack.serving.client import Client
from thack.serving.connect import connect
from thack.serving.identity import ask_probes, check_same, identify
from thack.serving.teacher import RemoteTeacher

NAME = "served.json"
PREFIX = "served:"  # of the fingerprint of a teacher behind a server


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedJob:
    """A capture from a server that is ready to begin.

    Args:
        directory: of the cache.
        settings: of the capture.
        teacher: connected.
        identity: of the teacher that the cache was begun with.
        data: its sequences by position; without responses if the teacher is to generate them.
        plan: the one in the directory.
        rank: this process; it writes every world_size-th shard.
    """

    directory: Path
    settings: CacheSettings
    teacher: RemoteTeacher
    identity: ServedTeacher
    data: CaptureData
    plan: CachePlan
    rank: Rank


def prepare_served(
    settings: CacheSettings,
    client: Client,
    progress: Progress,
    *,
    tokenizer: Tokenizer | None = None,
    sequences: Sequence[TokenSequence] | None = None,
    rank: Rank | None = None,
) -> ServedJob:
    """Connect, read the data, see that the teacher is the one of the directory, and publish the plan or reuse it."""
    directory = Path(settings.out).expanduser()
    if tokenizer is None:
        tokenizer = with_settings(Tokenizer.load(Path(settings.server.tokenizer)), settings.data, directory)
    teacher = connect(settings.server, client, tokenizer, settings.top_k)
    if not settings.generate and not teacher.dialect.scores:
        raise UsageError(
            f"a {teacher.dialect.name} server gives log-probabilities of the tokens that it generates alone",
            hint="use `generate = true`; or vLLM or SGLang, which score given responses",
        )
    _refuse_unsent(teacher, settings)
    data = capture_data(settings, tokenizer, sequences, progress, directory)
    refuse_teacher_prompts(data.has_teacher_prompts, "a server is asked with the prompt that all models read")
    identity = same_teacher(directory, teacher, settings.server)
    tail = tail_of(identity, settings)
    plan = plan_of(
        settings,
        data,
        RecordLayout(spec=TargetSpec(kind="top-k", k=settings.top_k, tail=tail), vocab_size=tokenizer.size),
        teacher=PREFIX + digest(canonical_json(identity.dump())),
        tokenizer=tokenizer.fingerprint(),
        batch_size=1,
        device="server",
        dtype="unknown",
        threads=1,
    )
    return ServedJob(
        directory=directory,
        settings=settings,
        teacher=teacher,
        identity=identity,
        data=data,
        plan=begin_cache(settings, plan, tokenizer, given=sequences is not None),
        rank=rank or current_rank(),
    )


def _refuse_unsent(teacher: RemoteTeacher, settings: CacheSettings) -> None:
    """Refuse a sampling that the server is not told of: its responses would be recorded as sampled so."""
    for name in teacher.dialect.unsent if settings.generate else ():
        if value := getattr(settings.sampling, name):
            raise UsageError(
                f"sampling.{name} = {value}: an {teacher.dialect.name} server cannot be asked for it",
                hint=f"leave `sampling.{name}` out; or say what server it is: `server.dialect`",
            )


def same_teacher(directory: Path, teacher: RemoteTeacher, settings: ServerSettings) -> ServedTeacher:
    """The teacher that the directory was begun with, recorded now if there is none.

    Raises:
        MismatchError: the server runs another one.
    """
    path = directory / NAME
    if not path.is_file():
        found = identify(teacher, settings)
        with suppress(MismatchError):  # another rank was first, with answers that were rounded differently
            _native.publish(path, canonical_json(found.dump()))
        recorded = ServedTeacher.parse(read_json(path), str(path))
        check_same(recorded, found.probes, settings.tolerance, str(directory))
        return recorded
    recorded = ServedTeacher.parse(read_json(path), str(path))
    if recorded.dialect != teacher.dialect.name:
        raise MismatchError(
            f"{directory} was begun with a {recorded.dialect} server, this is {teacher.dialect.name}",
            hint="serve the teacher as before, or give another `out`",
        )
    check_same(recorded, ask_probes(teacher, settings.concurrency), settings.tolerance, str(directory))
    return recorded


def tail_of(identity: ServedTeacher, settings: CacheSettings) -> Tail:
    """What 1 − Σ of the kept ids is: what the user states, or else what is measured.

    Log-probabilities of given responses are of the logits. Those of generated tokens may be of what sampling made of
    the logits, which is the same only where sampling changes nothing. Answers that contradict this are refused as they
    come.

    Raises:
        UsageError: it was measured that they are processed, and nothing says that this is meant.
    """
    if settings.server.logprobs == "processed":
        return "processed"
    plain = settings.sampling == SamplingSettings()
    if settings.generate and not plain and identity.log_probs == "processed" and settings.server.logprobs == "auto":
        raise UsageError(
            "the server's log-probabilities follow its sampling settings: they are not the teacher's",
            hint="sample at temperature 1 without top_k, top_p and min_p; or set `server.logprobs = processed`",
        )
    return "estimated"
