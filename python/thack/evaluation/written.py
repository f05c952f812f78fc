"""What a new evaluation set holds beside its texts: the prompts as ids, and what each reference writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from thack.data import Record
from thack.data.encode import encode_references
from thack.data.eos import EndCounts
from thack.errors import DataError
from thack.evaluation.encoders import Encoders
from thack.generation.kept import KeptResponses
from thack.generation.sampler import GenerationRequest, generate
from thack.models.protocol import LanguageModel
from thack.runtime.progress import Progress
from thack.schema.evaluation import EvalSetOrigin
from thack.schema.metrics import Role


@dataclass(frozen=True, slots=True)
class Encoded:
    """The prompts of a new evaluation set as ids, without those that do not fit.

    Attributes:
        keep: The index of each among those that were given.
        prompts: int32 ids, as `EvalSet` has them.
        other_prompts: By the fingerprint of every other tokenizer.
        teacher_prompts: What the teacher reads in their place; empty: the prompts.
        human: People's responses where they are asked for.
        origin: The tokenizer, and how many prompts were left out.
    """

    keep: tuple[int, ...]
    prompts: tuple[np.ndarray, ...]
    other_prompts: Mapping[str, tuple[np.ndarray, ...]]
    teacher_prompts: tuple[np.ndarray, ...]
    human: tuple[np.ndarray, ...]
    origin: EvalSetOrigin


def encoded(records: Sequence[Record], encoders: Encoders, max_prompt_tokens: int, max_human_tokens: int) -> Encoded:
    """Prompts as ids, and people's responses of at most `max_human_tokens`; 0: none are asked for."""
    first = encoders.all[0]
    as_ids = encoders.encode(records, max_prompt_tokens)
    written = encode_references(records, first, max_human_tokens, max_prompt_tokens) if max_human_tokens else []
    keep = as_ids.fitting(max_prompt_tokens)
    if not keep:
        raise DataError(f"all {len(records)} prompts are empty or longer than {max_prompt_tokens} tokens")
    origin = EvalSetOrigin(tokenizer=first.fingerprint(), dropped_prompts=len(records) - len(keep))
    if written:
        before, keep = len(keep), [i for i in keep if written[i] is not None]
        if not keep:
            raise DataError(
                "no prompt of the evaluation set has a response that people wrote",
                hint='each line is {"prompt": …, "response": …}; or leave human references out',
            )
        origin = replace(origin, dropped_without_response=before - len(keep))
    kept = as_ids.only(keep)
    return Encoded(
        keep=tuple(keep),
        prompts=kept.by_tokenizer.pop(origin.tokenizer),
        other_prompts=kept.by_tokenizer,
        teacher_prompts=kept.teacher,
        human=tuple(ids for i in keep if written and (ids := written[i]) is not None),
        origin=origin,
    )


def written_by(
    model: LanguageModel,
    role: Role,
    prompts: Sequence[np.ndarray],
    request: GenerationRequest,
    progress: Progress,
    kept: KeptResponses | None,
) -> tuple[np.ndarray, ...]:
    """One response of a reference to each prompt; `request.epoch` names its stream of random numbers."""
    found = generate(
        model,
        prompts,
        request,
        examples=np.arange(len(prompts)),
        progress=progress,
        task=f"responses of the {role}",
        kept=None if kept is None else kept.stream(request.epoch),
    )
    for warning in EndCounts.of(found, model.tokenizer.ends, maximum=request.max_new_tokens).warnings():
        progress.note(f"warning: responses of the {role}: {warning}")
    return tuple(found)
