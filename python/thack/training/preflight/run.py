"""From settings, or a run's models and data, to a `Preflight`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from thack.config import DataSettings, DistillSettings, DoctorSettings
from thack.data.compare import differences
from thack.data.date import with_settings
from thack.data.eos import EndCounts
from thack.data.lengths import first_records, response_limit
from thack.data.prepare import prepare
from thack.data.readers import each_record
from thack.data.records import Record
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, UsageError
from thack.models.load import load_model, share_ids
from thack.models.precision import inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.device import apply_threads, choose_device
from thack.schema.preflight import CellShares, DataCounts, Preflight
from thack.targets.shares import measured_cells, refusal
from thack.training.build_data import reading_tokenizer
from thack.training.models import Models
from thack.training.preflight.findings import findings
from thack.training.preflight.fit import teacher_fit
from thack.training.preflight.rendering import compare, special_tokens

_RECORDS = 1000  # of which tokens are counted, where data.limit does not say otherwise
_RUN_SEQUENCES = 8  # scored as a run starts


def examine(settings: DoctorSettings) -> Preflight:
    """What `thack doctor` says of a teacher, a student and data.

    Args:
        settings: data, with a teacher, a student or both.

    Raises:
        UsageError: nothing to compare is given.
        DataError, ModelError: the data or a model cannot be read.
    """
    if not settings.data.path or not (settings.teacher or settings.student):
        raise UsageError(
            "checking models needs data and at least one model",
            hint="set `data.path`, with `teacher`, `student` or both",
        )
    apply_threads()
    names = {"teacher": settings.teacher, "student": settings.student}
    models = {role: _load(settings, role, name) for role, name in names.items() if name}
    share_ids([*models.values()])
    tokenizers = {role: model.tokenizer for role, model in models.items()}
    data = replace(settings.data, limit=settings.data.limit or _RECORDS)
    each = (record for record in each_record(data) if isinstance(record, Record))
    records = list(islice(each, settings.sample))
    answered = any(record.response or record.response_ids for record in records)
    found = _facts(tokenizers, records, data)
    reader = reading_tokenizer([*tokenizers.values()][-1], tokenizers.get("teacher"))
    prepared = prepare(data, tokenizers["teacher"] if found.vocabulary else reader, need_response=answered)
    counts = replace(_counts(prepared.sequences, prepared.report.ends), dropped_prompts=prepared.report.dropped_prompts)
    teacher = models.get("teacher")
    if teacher is not None and answered and not found.vocabulary:
        precision = inference_precision(teacher, settings.dtype)
        found = replace(found, fit=teacher_fit(teacher, prepared.sequences[: settings.sample], precision))
    if teacher is not None and answered and found.vocabulary:
        found = _compared(found, teacher, tokenizers["student"], prepared.sequences[: settings.sample], settings)
    found = replace(found, data=counts, rows={role: model.vocab_size for role, model in models.items()})
    return _judged(found, settings.teacher, records)


def _compared(
    found: Preflight,
    teacher: LanguageModel,
    student: Tokenizer,
    sequences: Sequence[TokenSequence],
    settings: DoctorSettings,
) -> Preflight:
    """With what another tokenizer costs, or why it is refused."""
    precision = inference_precision(teacher, settings.dtype)
    try:
        return replace(found, cells=measured_cells(teacher, student, sequences, precision))
    except MismatchError as error:
        return replace(found, refused=refusal(error))


def examine_run(
    settings: DistillSettings,
    models: Models,
    teacher: LanguageModel | None,
    sequences: Sequence[TokenSequence],
    cells: CellShares | None = None,
) -> Preflight:
    """The same as a run starts, on its models and the first of its sequences.

    Args:
        settings: of the run.
        models: of the run.
        teacher: the teacher as it scores, which may be sharded: all ranks call this together.
        sequences: what the run trains on, as the teacher reads it; without responses where they are newly sampled.
        cells: what was measured of them, where the student has another tokenizer.
    """
    given = {"teacher": models.teacher, "student": models.student}
    present = {role: model for role, model in given.items() if model is not None}
    records = first_records(settings.data)[:_RUN_SEQUENCES]
    tokenizers = {role: model.tokenizer for role, model in present.items()}
    found = _facts(tokenizers, records if cells is None else [], settings.data)
    answered = [s for s in sequences if len(s.response_ids)]
    # What wrote the responses may have cut them at a lower maximum than this run's: then the longest are those.
    longest = max((len(s.response_ids) for s in answered), default=1)
    reader = models.student.tokenizer if models.foreign is None else models.foreign.tokenizer
    ends = EndCounts.of_sequences(answered, reader.ends, maximum=longest)
    found = replace(
        found,
        rows={role: model.vocab_size for role, model in present.items()},
        data=_counts(sequences, ends),
        cells=cells,
        fit=None if teacher is None else teacher_fit(teacher, answered[:_RUN_SEQUENCES], models.precision),
    )
    return _judged(found, settings.teacher, records)


def _load(settings: DoctorSettings, role: str, name: str) -> LanguageModel:
    model = load_model(name, role=role, device=choose_device(settings.device), options=settings.load)
    model.tokenizer = with_settings(model.tokenizer, settings.data)
    return model


def _facts(tokenizers: Mapping[str, Tokenizer], records: Sequence[Record], data: DataSettings) -> Preflight:
    """What the tokenizers and the first records say, without a model."""
    found = Preflight(
        special={role: special_tokens(tokenizer, chat=_chat(records)) for role, tokenizer in tokenizers.items()},
        tokenizer_ids=max(tokenizer.size for tokenizer in tokenizers.values()),
    )
    if len(tokenizers) < 2:
        return found
    teacher, student = tokenizers["teacher"], tokenizers["student"]
    found = replace(found, vocabulary=tuple(differences(teacher, student)))
    if _chat(records) and not all(tokens.has_template for tokens in found.special.values()):
        return found
    comparison = compare(records, teacher, student, data, response_limit(data, records))
    return replace(found, compared=comparison.compared, differing=comparison.differing, difference=comparison.first)


def _counts(sequences: Sequence[TokenSequence], ends: EndCounts) -> DataCounts:
    return DataCounts(
        sequences=len(sequences),
        prompt_tokens=sum(len(s.prompt_ids) for s in sequences),
        trained_tokens=sum(len(s.response_ids) for s in sequences),
        truncated=ends.truncated,
        without_end=ends.dropped_end,
    )


def _judged(found: Preflight, teacher: str, records: Sequence[Record]) -> Preflight:
    return replace(found, findings=findings(found, teacher=teacher or "TEACHER", chat=_chat(records)))


def _chat(records: Sequence[Record]) -> bool:
    return any(record.conversation is not None for record in records)
