"""What a new evaluation set holds beside its texts: the prompts as ids, and what each reference writes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from thack.evaluation.eval_set import EvalSet


def encoded(eval_set: EvalSet, encoders: Encoders, max_prompt_tokens: int, max_human_tokens: int) -> EvalSet:
    """Prompts as ids, and people's responses where they are asked for; what does not fit leaves the eval set."""
    if eval_set.prompts:
        return eval_set
    texts = [Record(prompt_id=key, prompt=text) for key, text in zip(eval_set.ids, eval_set.texts, strict=True)]
    records, first = eval_set.records or texts, encoders.all[0]
    as_ids = encoders.encode(records, max_prompt_tokens)
    written = encode_references(records, first, max_human_tokens, max_prompt_tokens) if max_human_tokens else []
    keep = as_ids.fitting(max_prompt_tokens)
    if not keep:
        raise DataError(f"all {len(eval_set)} prompts are empty or longer than {max_prompt_tokens} tokens")
    origin = EvalSetOrigin(tokenizer=first.fingerprint(), dropped_prompts=len(records) - len(keep))
    if written:
        before, keep = len(keep), [i for i in keep if written[i] is not None]
        if not keep:
            raise DataError(
                "no prompt of the evaluation set has a response that people wrote",
                hint='each line is {"prompt": …, "response": …}; or leave human references out',
            )
        origin = replace(origin, dropped_without_response=before - len(keep))
    kept_human = tuple(ids for i in keep if written and (ids := written[i]) is not None)
    kept = as_ids.only(keep)
    return replace(
        eval_set,
        ids=tuple(eval_set.ids[i] for i in keep),
        texts=tuple(eval_set.texts[i] for i in keep),
        prompts=kept.by_tokenizer.pop(origin.tokenizer),
        other_prompts=kept.by_tokenizer,
        teacher_prompts=kept.teacher,
        responses={Role.HUMAN: kept_human} if written else {},
        origin=origin,
        records=tuple(eval_set.records[i] for i in keep) if eval_set.records else (),
    )


def written_by(
    model: LanguageModel,
    role: Role,
    eval_set: EvalSet,
    request: GenerationRequest,
    progress: Progress,
    kept: KeptResponses | None,
) -> tuple[np.ndarray, ...]:
    """One response of a reference to each prompt; `request.epoch` names its stream of random numbers."""
    found = generate(
        model,
        eval_set.prompts_of(role, model.tokenizer.fingerprint()),
        request,
        examples=np.arange(len(eval_set)),
        progress=progress,
        task=f"responses of the {role}",
        kept=None if kept is None else kept.stream(request.epoch),
    )
    for warning in EndCounts.of(found, model.tokenizer.ends, maximum=request.max_new_tokens).warnings():
        progress.note(f"warning: responses of the {role}: {warning}")
    return tuple(found)
