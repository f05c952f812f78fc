"""Data: embedded tasks, how data becomes token ids, and responses that a model writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thack.config import GenerateSettings, ShowSettings, checked
from thack.errors import UsageError
from thack.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from thack.schema.data import ShownData
    from thack.schema.generation import GenerateResult


def corpus(
    out: str | Path = "data",
    *,
    task: Literal["docstring", "signature", "continuation", "postfix", "debian"] | str = "docstring",
    held_out: int = 256,
) -> dict[Path, int]:
    """Write an embedded task as JSONL files: text of Python's own standard library, or of Debian's package lists.

    Args:
        out: Directory of pairs.jsonl (where there are answers), prompts.jsonl and held_out.jsonl.
        task: What is asked for: docstrings of signatures, signatures of docstrings, continuations, postfix forms of
            statements, or, without answers, questions about Debian's packages.
        held_out: Prompts set aside for held_out.jsonl, at least 1.

    Returns:
        The number of lines of each file.

    Raises:
        UsageError: An unknown task, or more held-out prompts than there are.
        DataError: Task debian on a machine without apt-cache, or without package lists.

    Example:
        >>> sorted(path.name for path in thack.corpus("data"))
        ['held_out.jsonl', 'pairs.jsonl', 'prompts.jsonl']
    """
    from thack.data.export import export_corpus

    counts = export_corpus(Path(out), task, held_out)
    return {Path(out) / name: lines for name, lines in sorted(counts.items())}


def show_data(settings: ShowSettings, *, progress: Progress = SILENT) -> ShownData:
    """Show how data becomes token ids: prompt, response, and the end of it.

    Nothing is trained and no model is loaded, only its tokenizer.

    Args:
        settings: The data, and the model that is to read it; see `ShowSettings`.
        progress: Where progress goes.

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
    return show(settings, locate(settings.model).directory, progress)


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
