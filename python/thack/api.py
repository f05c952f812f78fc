"""The functions of thack: what a command calls, and what `import thack` exports.

A function takes the settings of its command as one typed object, does the work, and returns a typed value. Every
function checks its settings as strictly as the command line does. `progress` receives what a person would watch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

# All other imports of the package are inside the functions: `thack --help` and `import thack` must not import torch.
from thack.config import (
    CacheSettings,
    DistillSettings,
    DoctorSettings,
    EvaluateSettings,
    ExperimentSettings,
    GenerateSettings,
    MergeSettings,
    PushSettings,
    SftSettings,
    ShowSettings,
    SlurmSettings,
    checked,
)
from thack.errors import UsageError
from thack.runtime.progress import SILENT, Progress
from thack.schema.verdict import Margins, OracleFreeVerdict, Thresholds, Verdict

if TYPE_CHECKING:
    from thack.detection import Curves, Score
    from thack.experiments.demo import DemoResult
    from thack.experiments.forecast import Forecast
    from thack.experiments.grid import GridResult
    from thack.schema.cache_content import Inspection, Verification
    from thack.schema.cache_size import CaptureEstimate, ProbeResult
    from thack.schema.data import ShownData
    from thack.schema.evaluation import EvaluationResult
    from thack.schema.generation import GenerateResult
    from thack.schema.preflight import Finding, Preflight
    from thack.schema.publication import PushResult
    from thack.training import RunResult

PathLike = str | Path


def corpus(
    out: PathLike = "data",
    *,
    task: Literal["docstring", "signature", "continuation", "postfix"] | str = "docstring",
    held_out: int = 256,
) -> dict[Path, int]:
    """Write the embedded corpus, Python's own standard library, as JSONL files.

    Args:
        out: Directory of pairs.jsonl, prompts.jsonl and held_out.jsonl.
        task: What is asked for: docstrings of signatures, signatures of docstrings, continuations, or postfix forms of
            statements.
        held_out: Prompts set aside for held_out.jsonl, at least 1.

    Returns:
        The number of lines of each file.

    Raises:
        UsageError: An unknown task, or more held-out prompts than there are.

    Example:
        >>> sorted(path.name for path in thack.corpus("data"))
        ['held_out.jsonl', 'pairs.jsonl', 'prompts.jsonl']
    """
    from thack.data.export import export_corpus

    counts = export_corpus(Path(out), task, held_out)
    return {Path(out) / name: lines for name, lines in sorted(counts.items())}


def sft(settings: SftSettings, *, progress: Progress = SILENT) -> Path:
    """Train a model on prompts with responses. A run that was stopped is resumed.

    Args:
        settings: Data, model, training; see `SftSettings`.
        progress: Where progress goes.

    Returns:
        The directory of the trained model.

    Raises:
        UsageError: Settings that contradict each other, or a run with other settings in `out`.
        DataError: Data that cannot be read.
        ModelError: A model that cannot be loaded.

    Example:
        >>> data = thack.DataSettings(path="data/pairs.jsonl", limit=64, max_response_tokens=16)
        >>> thack.sft(thack.SftSettings(data=data, out=Path("runs/teacher"), tokenizer_size=320, epochs=1))
        PosixPath('runs/teacher/model')
    """
    from thack.checks import check_sft

    settings = check_sft(checked(settings))
    from thack.training import run_sft

    return run_sft(settings, progress=progress)


def show_data(settings: ShowSettings) -> ShownData:
    """Show how data becomes token ids: prompt, response, and the end of it.

    Nothing is trained and no model is loaded, only its tokenizer.

    Args:
        settings: The data, and the model that is to read it; see `ShowSettings`.

    Returns:
        The first sequences, and counts of what was dropped, cut or refused in all of the data.

    Raises:
        UsageError: No model or no data.
        DataError: Data that cannot be read.

    Example:
        >>> data = thack.DataSettings(path="data/pairs.jsonl", limit=4)
        >>> found = thack.show_data(thack.ShowSettings(model="runs/teacher/model", data=data, count=1))
        >>> found.sequences[0].tokens[-1]
        '</s>'
    """
    from thack.data.show import show
    from thack.models.hub import locate

    settings = checked(settings)
    if not settings.model or not settings.data.path:
        missing = "data" if settings.model else "a model"
        raise UsageError(f"nothing to show without {missing}", hint="set `model`, and `data.path` to a file")
    return show(settings, locate(settings.model).directory)


def merge(settings: MergeSettings, *, progress: Progress = SILENT) -> str:
    """Write an adapter of peft and its base model as one model, which transformers and vLLM open.

    Args:
        settings: The adapter and the output; see `MergeSettings`.
        progress: Where progress goes.

    Returns:
        The fingerprint of the merged model.

    Raises:
        UsageError: There is no adapter, or `out` exists.
        ModelError: The adapter or its base model cannot be loaded.

    Example:
        >>> thack.merge(thack.MergeSettings(model="runs/teacher", out=Path("merged")))
        Traceback (most recent call last):
        thack.errors.UsageError: runs/teacher holds no adapter: there is nothing to merge
          it can be used as it is
    """
    settings = checked(settings)
    if not settings.model:
        raise UsageError("merging needs an adapter", hint="set `model` to its directory")
    if settings.out.exists():
        raise UsageError(f"`out` {settings.out} exists already", hint="give another directory")
    from thack.models.load import merge

    return merge(settings, progress).fingerprint()


def push(settings: PushSettings, *, progress: Progress = SILENT) -> PushResult:
    """Upload a model with its card to the Hugging Face hub, and on request its cache with a card of its own.

    Args:
        settings: What is pushed, and where; see `PushSettings`. The token is huggingface_hub's own.
        progress: Where progress goes.

    Returns:
        The commits, and what was left out.

    Raises:
        UsageError: No model or repository, or a public repository without `public`.
        ModelError, CacheError: The model or the cache is not complete.
        ServerError: The hub cannot be reached, or refuses.

    Example:
        >>> thack.push(thack.PushSettings(model="runs/teacher", to="org name"))
        Traceback (most recent call last):
        thack.errors.UsageError: to = 'org name' is no repository
          it has the form ORG/NAME
    """
    from thack.checks import check_push

    settings = check_push(checked(settings))
    from thack.reporting.push import push as run

    return run(settings, progress)


def generate(settings: GenerateSettings, *, progress: Progress = SILENT) -> GenerateResult:
    """Write responses to prompts with a model. They depend on the seed, not on the batch size.

    Args:
        settings: Model, prompts, sampling; see `GenerateSettings`.
        progress: Where progress goes.

    Returns:
        The directory, and counts of responses and tokens.

    Raises:
        UsageError: No model or no prompts.
        MismatchError: `out` has other responses.

    Example:
        >>> data = thack.DataSettings(path="data/prompts.jsonl", limit=8, max_response_tokens=8)
        >>> settings = thack.GenerateSettings(model="runs/teacher/model", data=data, out=Path("responses"))
        >>> thack.generate(settings).responses
        8
    """
    from thack.checks import check_generate

    settings = check_generate(checked(settings))
    from thack.generation.run import run_generate

    return run_generate(settings, progress=progress)


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


def inspect_cache(directory: PathLike) -> Inspection:
    """What a cache contains, how it was written, and which losses it supports. Reads no record.

    Args:
        directory: Of the cache.

    Raises:
        CacheError: It is no cache.

    Example:
        >>> thack.inspect_cache("cache").kind
        'top-k'
    """
    from thack.cache import inspect

    return inspect(directory)


def verify_cache(directory: PathLike, *, full: bool = False, progress: Progress = SILENT) -> Verification:
    """Check every shard of a cache.

    Args:
        directory: Of the cache.
        full: Read every byte, not only the frame of each shard.
        progress: Where progress goes.

    Returns:
        Whether all is intact, and each damaged file with its cause.

    Example:
        >>> thack.verify_cache("cache", full=True).ok
        True
    """
    from thack.cache import verify

    return verify(directory, full=full, progress=progress)


def export_cache(
    directory: PathLike,
    out: PathLike,
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

    Example:
        >>> [path.suffix for path in thack.export_cache("cache", "plain")]
        ['.safetensors']
    """
    from thack.cache import export_cache as export

    return export(directory, out, progress, to)


def import_cache(
    source: PathLike,
    out: PathLike,
    *,
    tokenizer: PathLike,
    vocab_size: int,
    top_k: int = 0,
    estimate_tail: bool = True,
    logprobs: Literal["auto", "raw", "processed"] = "auto",
    packed_config: PathLike | None = None,
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
        estimate_tail: Take 1 − Σp as the tail mass; else it is unknown.
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


def distill(settings: DistillSettings, *, progress: Progress = SILENT) -> RunResult:
    """Train a student to match a teacher, from a cache or live. A run that was stopped is resumed.

    Args:
        settings: Student, teacher or cache, data, loss, evaluation; see `DistillSettings`.
        progress: Where progress goes.

    Returns:
        The run's directory, the student's directory, and the number of optimizer steps.

    Raises:
        UsageError: Settings that contradict each other, or a run with other settings in `out`.
        MismatchError: Models or data that do not belong together.
        UndefinedLoss: A divergence that the target does not support.
        DivergedError: The loss became NaN or infinite.
        Preempted: Stopped by a signal after a checkpoint was written.

    Example:
        >>> result = thack.distill(
        ...     thack.DistillSettings(
        ...         cache="cache",
        ...         student="runs/teacher/model",
        ...         loss=thack.LossSettings(divergence="jsd", beta=0.5),
        ...         steps=2,
        ...         out=Path("runs/a"),
        ...     )
        ... )
        >>> result.steps
        2
    """
    from thack.checks import check_distill

    settings = check_distill(checked(settings))
    from thack.training import run_distill

    return run_distill(settings, progress=progress)


def evaluate(settings: EvaluateSettings, *, progress: Progress = SILENT) -> EvaluationResult:
    """Measure the golden and proxy metrics of a student on a frozen evaluation set of held-out prompts.

    Args:
        settings: Student, its references, the held-out prompts; see `EvaluateSettings`.
        progress: Where progress goes.

    Returns:
        Models, evaluation set, metrics in nats and per-prompt sums, as they are written to `out`.

    Raises:
        UsageError: No student or no held-out prompts.
        ModelError: A model that gives NaN.

    Example:
        >>> result = thack.evaluate(
        ...     thack.EvaluateSettings(
        ...         student="runs/a/model",
        ...         teacher="runs/teacher/model",
        ...         eval_data="data/held_out.jsonl",
        ...         data=thack.DataSettings(limit=4, max_response_tokens=4),
        ...     )
        ... )
        >>> 0 <= result.columns["proxy/forward_kl/reference_sampled/token_mean"]
        True
    """
    from thack.checks import check_evaluate

    settings = check_evaluate(checked(settings))
    from thack.evaluation import run_evaluate

    return run_evaluate(settings, progress=progress)


def verdict(
    run: PathLike,
    *,
    mapping: Mapping[str, str] | None = None,
    margins: Margins | None = None,
    thresholds: Thresholds | None = None,
    online: PathLike | None = None,
) -> Verdict | OracleFreeVerdict:
    """Judge a run by its golden and proxy curves; without a golden curve, by the detector that needs no oracle.

    A run directory that may be written gets verdict.json, and its model a card with the verdict.

    Args:
        run: Run directory, or a log of another trainer (JSONL or trainer_state.json).
        mapping: For such a log: its columns by what they measure, such as `{"golden": "eval/kl"}`.
        margins: What counts as a rise.
        thresholds: When a detector raises an alarm; used without a golden curve.
        online: A run of the same student on newly sampled responses and exact targets, for the cause of a rise.

    Returns:
        The verdict with its numbers; `explain` gives it in words.

    Raises:
        DataError: No metrics in the log, or no such column.

    Example:
        >>> thack.verdict("runs/judged", margins=thack.Margins(rise=0.05)).name
        'inconclusive'
    """
    from thack.detection import verdict as judge
    from thack.detection import verdict_without_oracle
    from thack.files import write_text
    from thack.reporting import write_card

    path = Path(run)
    curves = read_curves(path, mapping)
    found: Verdict | OracleFreeVerdict
    if curves.has("golden"):
        path_of = None if online is None else read_curves(online, mapping)
        found = judge(curves, margins or Margins(), online=path_of)
    else:
        found = verdict_without_oracle(curves, thresholds or Thresholds())
    if path.is_dir() and os.access(path, os.W_OK):  # not somebody else's run, nor an archive
        if isinstance(found, Verdict):
            write_text(path / "verdict.json", found.to_json())
        write_card(path, found)
    return found


def explain(found: Verdict | OracleFreeVerdict) -> list[str]:
    """A verdict in sentences: what it means, and each reason.

    Example:
        >>> thack.explain(thack.verdict("runs/judged"))[0]
        'the numbers at hand do not decide'
    """
    from thack.reporting.prose import MEANING, reasons

    return [*([MEANING[found.name]] if found.name in MEANING else []), *reasons(found)]


def read_curves(run: PathLike, mapping: Mapping[str, str] | None = None) -> Curves:
    """The curves of a run directory, or of another trainer's log.

    Args:
        run: Run directory or log.
        mapping: The log's columns by what they measure.

    Raises:
        DataError: No metrics in the log, or no such column.
    """
    from thack.detection import Curves

    path = Path(run)
    return Curves.from_run(path, mapping=mapping) if path.is_dir() else Curves.from_log(path, mapping)


def score_detectors(
    runs: Sequence[PathLike],
    *,
    chosen_on: Sequence[PathLike] = (),
    mapping: Mapping[str, str] | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[Score, ...]:
    """How well each detector that needs no oracle foresees the verdict on runs that have one, the best first.

    Args:
        runs: Run directories or logs with a golden metric.
        chosen_on: Other runs, on which the thresholds that separate best are chosen.
        mapping: Columns of foreign logs by what they measure.
        thresholds: Used where `chosen_on` is empty.

    Raises:
        UsageError: A run without a golden metric.
    """
    from thack.detection import Case, with_chosen
    from thack.detection import score_detectors as score

    limits = thresholds or Thresholds()
    if chosen_on:
        limits = with_chosen([Case.of(read_curves(run, mapping)) for run in chosen_on], limits)
    return score([Case.of(read_curves(run, mapping)) for run in runs], limits)


def report(runs: PathLike | Sequence[PathLike], out: PathLike | None = None) -> Path:
    """Write one self-contained HTML page about runs, or about an experiment.

    Args:
        runs: Run directories, side by side; or one directory that `experiment` wrote.
        out: The HTML file; by default report.html in the first directory.

    Returns:
        The path of the file.

    Raises:
        DataError: A directory that is no run.

    Example:
        >>> thack.report("runs/judged").name
        'report.html'
    """
    from thack.reporting import is_grid, write_grid_report, write_report
    from thack.runtime.lock import locked

    paths = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    path = Path(out) if out is not None else paths[0] / "report.html"
    with locked(path):
        if len(paths) == 1 and is_grid(paths[0]):
            return write_grid_report(paths[0], path)
        return write_report(paths, path)


def recipe(
    name: PathLike,
    *,
    files: Sequence[PathLike] = (),
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
) -> ExperimentSettings:
    """The settings of a shipped experiment, or of a TOML file, with changes.

    Args:
        name: demo, quick, laptop, gpu or paper; or the path of a TOML file.
        files: Further TOML files; later ones win.
        sets: Texts of the form `key=value`, such as `axes.budget=[1, 4]`.
        overrides: Values by dotted key.

    Raises:
        UsageError: No such recipe, or a setting that is wrong.

    Example:
        >>> thack.recipe("laptop", sets=["seeds=[0, 1]"]).seeds
        (0, 1)
    """
    from thack.experiments.recipe import load_recipe

    return load_recipe(str(name), sets, [Path(file) for file in files], overrides)


def demo(
    out: PathLike = "runs/demo",
    *,
    settings: ExperimentSettings | None = None,
    progress: Progress = SILENT,
) -> DemoResult:
    """The controlled experiment at laptop size, from Python's own docstrings to a verdict and a report.

    Args:
        out: Output directory; a demo that was stopped is resumed.
        settings: Other settings than `recipe("demo")`, such as `recipe("demo", sets=["seeds=[0, 1]"])`.
        progress: Where progress goes.

    Returns:
        Each student with its verdict, and the report.
    """
    from thack.experiments.demo import run_experiment

    return run_experiment(checked(settings or recipe("demo")), Path(out), progress)


def experiment(
    settings: ExperimentSettings, out: PathLike, *, cell: int | None = None, progress: Progress = SILENT
) -> GridResult:
    """Run a grid of controlled experiments. Complete stages are reused; a cell that fails does not stop the others.

    Args:
        settings: Such as `recipe("laptop")`.
        out: Output directory; a grid that was stopped is resumed.
        cell: Run only this cell, counted from 0: one task of a Slurm array.
        progress: Where progress goes.

    Returns:
        What became of each cell; `report(out)` writes the page with the paper's claims.

    Raises:
        UsageError: Settings that contradict each other, or no such cell.
    """
    from thack.experiments.grid import run_grid

    return run_grid(checked(settings), Path(out), progress, only=cell)


def forecast(settings: ExperimentSettings, out: PathLike) -> Forecast:
    """What `experiment` would run, what its cells share, and how long it takes at a measured rate.

    Args:
        settings: Such as `recipe("laptop")`.
        out: Output directory; what is complete there is not counted again.

    Example:
        >>> len(thack.forecast(thack.recipe("quick"), "runs/quick").planned)
        3
    """
    from thack.experiments.forecast import forecast as count
    from thack.experiments.plan import plan
    from thack.runtime.threads import threads

    chosen = checked(settings)
    return count(chosen, plan(chosen, Path(out)), threads())


def write_cells(found: Forecast, recipe: str, out: PathLike) -> Path:
    """Write cells.json for a Slurm array: task N runs cell N.

    Args:
        found: The forecast of the experiment.
        recipe: Its recipe, as it was typed.
        out: Output directory of the experiment.

    Returns:
        The path of cells.json.
    """
    from thack.experiments.forecast import write_plan
    from thack.files import claim_output

    claim_output(Path(out), "experiment")
    return write_plan(found, recipe, Path(out))


def slurm_script(settings: SlurmSettings) -> str:
    """An sbatch script that runs a command of thack, survives preemption and requeues itself.

    Args:
        settings: The command, its arguments, and the resources; see `SlurmSettings`.

    Raises:
        UsageError: A command that cannot run like this.

    Example:
        >>> job = thack.SlurmSettings(command="distill", arguments=("--cache", "cache", "--out", "runs/a"), gpus=2)
        >>> "#SBATCH --gpus-per-task=2" in thack.slurm_script(job)
        True
    """
    from thack.slurm import render

    return render(checked(settings))


def doctor(out: PathLike = ".") -> tuple[Finding, ...]:
    """Whether this machine is ready: versions, SIMD, threads, GPUs, and the file system of `out`.

    Args:
        out: Where a run would write; it need not exist.

    Returns:
        What was found, each ok, a note, or wrong with advice.

    Example:
        >>> [finding.value for finding in thack.doctor() if finding.name == "O_EXCL"][0].startswith("works")
        True
    """
    from thack.runtime.doctor import examine

    return tuple(examine(Path(out)))


def preflight(settings: DoctorSettings) -> Preflight:
    """Whether a teacher, a student and data go together: templates, ends, vocabulary, lengths, the teacher's fit.

    Args:
        settings: Data, with a teacher, a student or both; see `DoctorSettings`.

    Returns:
        The facts, and what they mean: each finding ok, a note, or wrong with advice.

    Raises:
        UsageError: No data, or no model.
        DataError: Data that cannot be read.
        ModelError: A model that cannot be loaded.

    Example:
        >>> data = thack.DataSettings(path="responses")
        >>> found = thack.preflight(thack.DoctorSettings(teacher="runs/teacher/model", data=data))
        >>> [finding.name for finding in found.findings][:2]
        ["teacher's tokens", 'padded ids']
    """
    from thack.training.preflight import examine

    return examine(checked(settings))
