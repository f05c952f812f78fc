"""`make compat`: every causal and encoder-decoder model that transformers can build tiny, against transformers itself.

A model is loaded from its directory, scores sequences of unequal length in one batch, decodes while rows are dropped,
writes greedily, is captured, learns for two steps from the capture, and is saved and opened again. The reference is
always transformers' own forward of each sequence alone, without padding or cache, and torch's AdamW.
Writes docs/reference/models.md; the exit code is 1 where a number differs.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import CacheSettings, DistillSettings, OptimizerSettings, SamplingSettings
from thack.data.sequence import TokenSequence
from thack.errors import ThackError
from thack.generation.sampler import GenerationRequest, generate
from thack.models.batch import Batch
from thack.models.hf.model import HuggingFaceModel
from thack.models.load import load_model
from thack.models.protocol import LanguageModel
from thack.runtime.runlog import read
from thack.targets import DenseTarget
from thack.targets.projected import Projection
from thack.training import run_distill

from .architectures import build
from .small import make_sequences, tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "models.md"
SEQUENCES = make_sequences([(5, 6), (1, 6), (3, 6), (9, 6)])
GREEDY = GenerationRequest(sampling=SamplingSettings(greedy=True), max_new_tokens=8, seed=0)
OPTIMIZER = OptimizerSettings(learning_rate=1e-3, warmup_steps=0)
DECODER, ENCODER_DECODER = "decoder", "encoder-decoder"

State = Literal["exact", "refused", "not built", "differs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a model fared."""

    name: str
    form: str  # DECODER or ENCODER_DECODER
    state: State
    note: str  # of an exact model how it runs, else the reason
    step: str = ""  # at which it was refused, or differs


def declared() -> list[tuple[str, str]]:
    """(name, form) of every model that transformers registers."""
    return [
        *((name, DECODER) for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)),
        *((name, ENCODER_DECODER) for name in sorted(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)),
    ]


def reference(network: Any, s: TokenSequence) -> torch.Tensor:
    """logits_RV of one sequence, by transformers' own forward without padding or cache."""
    prompt, response = (torch.from_numpy(ids.astype(np.int64))[None] for ids in (s.prompt_ids, s.response_ids))
    if network.config.is_encoder_decoder:
        start = torch.tensor([[network.config.decoder_start_token_id]])
        decoder = torch.cat((start, response[:, :-1]), dim=1)
        logits: torch.Tensor = network(input_ids=prompt, decoder_input_ids=decoder, use_cache=False).logits[0]
        return logits
    logits = network(input_ids=torch.cat((prompt, response), dim=1), use_cache=False).logits[0]
    return logits[prompt.shape[1] - 1 : -1]


@torch.no_grad()
def check(network: Any, model: LanguageModel, sequences: list[TokenSequence]) -> None:
    """Scores, generation with dropped rows, and the head's form, against `reference`."""
    expected = [reference(network, s) for s in sequences]
    scale = float(torch.cat(expected).abs().max())
    near = partial(torch.testing.assert_close, atol=2e-5 * scale, rtol=0.0)
    logits_NV = model(Batch.of(sequences))
    near(logits_NV, torch.cat(expected))
    if model.head_form is not None:
        head = Projection.of(model)
        hidden_NH = model(Batch.of(sequences), project=False)
        made_NV = head.shape(torch.nn.functional.linear(hidden_NH, head.weight_VH, head.bias_V))
        near(made_NV, logits_NV)
    state, rows = model.start([s.prompt_ids for s in sequences], 6), torch.arange(4)
    for t in range(6):
        near(state.logits(), torch.stack([expected[i][t] for i in rows]))
        kept = {2: torch.tensor([0, 1, 3]), 3: torch.tensor([1, 2])}.get(t)
        if kept is not None:
            state.keep(kept)
            rows = rows[kept]
        if t < 5:
            state.append(torch.tensor([int(sequences[i].response_ids[t]) for i in rows]))


def check_greedy(network: Any, model: LanguageModel) -> None:
    """Every id is the most likely one of transformers' own row, and a response ends at its first end."""
    ends, width = model.tokenizer.ends.ids, model.tokenizer.size
    written = generate(model, [s.prompt_ids for s in SEQUENCES], GREEDY, examples=range(len(SEQUENCES)))
    for s, response in zip(SEQUENCES, written, strict=True):
        rows = reference(
            network, TokenSequence(example=0, prompt_id="", prompt_ids=s.prompt_ids, response_ids=response)
        )
        rows = rows[:, :width]
        best = rows.amax(1) - rows.gather(1, torch.from_numpy(response.astype(np.int64))[:, None])[:, 0]
        assert float(best.max()) <= 1e-4 * float(rows.abs().max()), "greedy responses are not transformers' own"
        is_end = [int(i) in ends for i in response]
        assert not any(is_end[:-1]) and (is_end[-1] or len(response) == GREEDY.max_new_tokens), "ends of responses"


def check_capture(network: Any, directory: Path, out: Path) -> None:
    """Records are transformers' log-probabilities on the tokenizer's ids."""
    settings = CacheSettings(out=out, teacher=str(directory), kind="dense", dtype="float32", device="cpu")
    sequences, target = Cache.open(capture(settings, sequences=SEQUENCES)).targets(range(len(SEQUENCES)))
    assert isinstance(target, DenseTarget)
    expected = log_probs(network, sequences)
    torch.testing.assert_close(target.log_probs_NV, expected, rtol=1e-3, atol=2e-3)


def log_probs(network: Any, sequences: Sequence[TokenSequence]) -> Tensor:
    return torch.cat([torch.log_softmax(reference(network, s)[:, : tokenizer().size], 1) for s in sequences])


def check_distillation(teacher: Any, student: Any, directory: Path, work: Path) -> Path:
    """Losses of two steps from the cache are those of torch's AdamW on transformers' forward; returns the student."""
    settings = DistillSettings(
        out=work / "run",
        student=str(directory),
        cache=str(work / "cache"),
        check_alignment=False,  # a random model may well repeat its last token
        steps=2,
        batch_size=len(SEQUENCES),
        optimizer=OPTIMIZER,
        dtype="float32",
        device="cpu",
    )
    result = run_distill(settings)
    losses = [row["loss"] for row in read(result.path / "metrics.jsonl") if "loss" in row]
    expected = plain_distillation(teacher, student)
    change = abs(expected[1] - expected[0])
    np.testing.assert_allclose(losses[0], expected[0], rtol=2e-3)
    np.testing.assert_allclose(losses[1], expected[1], rtol=2e-3, atol=0.05 * change)
    return result.model


def plain_distillation(teacher: Any, student: Any) -> list[float]:
    """The losses before two steps of AdamW, in transformers and torch alone."""
    with torch.no_grad():
        p_NV = log_probs(teacher, SEQUENCES).exp()
    student.train()
    adamw = torch.optim.AdamW(student.parameters(), lr=OPTIMIZER.learning_rate, weight_decay=OPTIMIZER.weight_decay)
    losses = []
    for _ in range(2):
        rows = torch.nn.functional.kl_div(log_probs(student, SEQUENCES), p_NV, reduction="none").sum(1)
        adamw.zero_grad()
        rows.mean().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), OPTIMIZER.clip_norm)
        adamw.step()
        losses.append(float(rows.mean().detach()))
    student.eval()
    return losses


@torch.no_grad()
def check_saved(before: Any, directory: Path) -> None:
    """transformers and thack open what was trained, and it computes the same in both."""
    opened = opened_by_transformers(directory, before)
    expected = torch.cat([reference(opened, s) for s in SEQUENCES])
    found = load_model(directory)(Batch.of(SEQUENCES))
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0.0)
    assert not torch.equal(expected, torch.cat([reference(before, s) for s in SEQUENCES])), "nothing was trained"


def opened_by_transformers(directory: Path, network: Any) -> Any:
    return type(network).from_pretrained(directory, dtype=torch.float32).eval()


def trial(name: str, form: str) -> Outcome:
    """One model through all steps; the first that fails is named."""
    made = partial(Outcome, name=name, form=form)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        try:
            teacher, student = (
                built(name, form, work / role, seed) for seed, role in enumerate(("teacher", "student"))
            )
        except Exception as error:  # anything, from any of transformers' models
            return made(state="not built", note=reason(error, work))
        step = "load"
        try:
            model = load_model(work / "teacher")
            step = "score and decode"
            check(teacher, model, SEQUENCES)
            step = "generate"
            check_greedy(teacher, model)
            step = "capture"
            check_capture(teacher, work / "teacher", work / "cache")
            step = "distill"
            trained = check_distillation(teacher, student, work / "student", work)
            step = "save and open"
            check_saved(opened_by_transformers(work / "student", student), trained)
        except ThackError as error:
            return made(state="refused", note=reason(error, work), step=step)
        except Exception as error:
            return made(state="differs", note=reason(error, work), step=step)
        return made(state="exact", note=manner(model))


def listed() -> dict[tuple[str, str], str]:
    """The part of the page that each (name, form) stands in."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    rows = re.compile(rf"^\| (\S+) \| ({DECODER}|{ENCODER_DECODER}) \|", re.M)
    return {found: title for title, text in zip(parts[::2], parts[1::2], strict=True) for found in rows.findall(text)}


def built(name: str, form: str, directory: Path, seed: int) -> Any:
    """A model that transformers runs, saves, and opens to the same numbers."""
    network = build(name, seq2seq=form == ENCODER_DECODER, seed=seed)
    with torch.no_grad():
        expected = reference(network, SEQUENCES[0])
        network.save_pretrained(directory)
        tokenizer().save(directory)
        opened = opened_by_transformers(directory, network)
        if not torch.allclose(reference(opened, SEQUENCES[0]), expected, rtol=1e-4, atol=1e-4):
            raise ValueError("transformers opens what it saved with other numbers")
    return opened


def manner(model: LanguageModel) -> str:
    """What is not as with most models."""
    notes = []
    if not isinstance(model, HuggingFaceModel):
        return "thack's own decoder"
    if not model.scores_padded():
        notes.append("batches of equal length")
    if model._generation is None or not model._generation.cached:
        notes.append("writes without a key-value cache")
    if model.head_form is None:
        notes.append("loss not fused with the head")
    return ", ".join(notes)


def reason(error: Exception, work: Path) -> str:
    """One line, without places on this machine."""
    text = error.message if isinstance(error, ThackError) else f"{type(error).__name__}: {error}"
    text = re.sub(r"/\S+/(\w+)", r"\1", text.replace(str(work), "")).strip()
    return " ".join(text.split())[:160].replace("|", "/").replace("<", "‹").replace(">", "›")


def page(outcomes: Sequence[Outcome]) -> str:
    """docs/reference/models.md."""
    of = {state: [o for o in outcomes if o.state == state] for state in ("exact", "refused", "not built", "differs")}
    forms = [sum(o.form == form for o in of["exact"]) for form in (DECODER, ENCODER_DECODER)]
    parts = [
        f"""# Models

Every causal and encoder-decoder model that transformers {transformers.__version__} registers, built tiny with random
weights and taken through thack: loaded from its directory; sequences of unequal length scored in one batch; decoded
while rows are dropped; greedy responses; a cache; two steps of distillation from it; saved and opened again. Each
number is compared with transformers' own forward of one sequence at a time, and with torch's AdamW. `make compat` runs
this and writes this page.

Of {len(outcomes)} models, {len(of["exact"])} are exact ({forms[0]} decoders, {forms[1]} encoder-decoders), \
{len(of["refused"])} are refused by name, {len(of["differs"])} differ, and {len(of["not built"])} cannot be built,
run or reopened by transformers itself from these sizes.
""".replace("\\\n", ""),
        section("Exact", "Notes say what is not as with most models.", of["exact"]),
        section("Refused", "thack stops with this message.", of["refused"]),
        section("Different", "A number is not transformers' own: do not use these.", of["differs"]),
        section(
            "Not tried",
            "transformers does not build, run or reopen these from the sizes of this test.",
            of["not built"],
        ),
    ]
    return "\n".join(part for part in parts if part)


def section(title: str, text: str, outcomes: Sequence[Outcome]) -> str:
    rows = "\n".join(f"| {o.name} | {o.form} | {f'{o.step}: ' if o.step else ''}{o.note} |" for o in outcomes)
    return f"## {title}\n\n{text}\n\n| model type | form | |\n|---|---|---|\n{rows}\n" if outcomes else ""


def quieten() -> None:
    """One thread, and nothing of what transformers says about tiny random models."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def main(arguments: Sequence[str]) -> int:
    """All models, or those that are named; only all of them are written to the page."""
    wanted = [(name, form) for name, form in declared() if not arguments or name in arguments]
    workers = int(os.environ.get("WORKERS", "2"))
    outcomes = []
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=quieten) as pool:
        for found in pool.map(trial, *zip(*wanted, strict=True)):
            print(f"{found.state:<10} {found.form:<16} {found.name:<24} {found.step} {found.note}", flush=True)
            outcomes.append(found)
    if not arguments:
        PAGE.write_text(page(outcomes), encoding="utf-8")
        print(f"written  {PAGE}")
    return 1 if any(o.state == "differs" for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
