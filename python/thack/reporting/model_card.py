"""README.md beside a student's weights: what it is, what is known of its hacking, and how to open it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thack.config import DistillSettings, load_settings
from thack.detection import OracleFreeVerdict, Verdict
from thack.files import write_text
from thack.models.directory import read_config
from thack.reading import read_json
from thack.reporting.losses import loss_in_words
from thack.reporting.markdown import render_markdown
from thack.reporting.prose import MEANING, reasons
from thack.schema.run import Manifest, RunFacts

CARD = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of the card: a name, then code, then text."""

    name: str
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A verdict in words."""

    headline: str
    meaning: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """What `templates/card.md.jinja` shows."""

    name: str
    base_model: str  # of the hub; empty: the student came from elsewhere
    adapter_of: str  # the frozen base model, of which the directory holds an adapter; empty: it holds a whole model
    facts: tuple[Fact, ...]  # of a distillation
    num_pairs: int | None  # of a fine-tuning
    verdict: _Judged | None
    judge: str  # the command that judges the run
    model_class: str
    adapter_class: str  # of peft


def write_card(run: Path, found: Verdict | OracleFreeVerdict | None = None) -> Path | None:
    """Write model/README.md of a run directory.

    Args:
        run: The directory.
        found: Its verdict, if it has been judged.

    Returns:
        The file; None if the run has no model yet.

    Raises:
        DataError: the run's manifest.json or config.toml cannot be read.
        UsageError: config.toml has settings that this version does not know.
    """
    if not any((run / "model" / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None
    path = run / "model" / CARD
    write_text(path, model_card(run, found))
    return path


def model_card(
    run: Path,
    found: Verdict | OracleFreeVerdict | None = None,
    *,
    model: Path | None = None,
    more: Sequence[Fact] = (),
) -> str:
    """The text of a card: front matter for the hub, then plain words. Arguments and errors as of `write_card`.

    Args:
        run: As of `write_card`.
        found: As of `write_card`.
        model: Directory of the model that is described; None: that of the run.
        more: Further facts, behind those of the run.
    """
    model = model or run / "model"
    manifest = _manifest(run / "manifest.json")
    base, _, commit = (manifest.facts.origins.get("student", "") if manifest else "").partition("@")
    distilled = manifest is not None and manifest.command == "distill"
    adapter = _adapter(model)
    encoder_decoder = (
        adapter["task_type"] == "SEQ_2_SEQ_LM" if adapter else bool(read_config(model).get("is_encoder_decoder"))
    )
    card = _Card(
        name=run.resolve().name,
        base_model=base if commit else "",
        adapter_of=adapter.get("base_model_name_or_path", ""),
        facts=(*_facts(manifest.facts, _settings(run)), *more) if manifest and distilled else (),
        num_pairs=None if manifest is None or distilled else manifest.facts.sequences,
        verdict=None if found is None else _judged(found),
        judge=f"thack verdict {shlex.quote(str(run))}",
        model_class="AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM",
        adapter_class="AutoPeftModelForSeq2SeqLM" if encoder_decoder else "AutoPeftModelForCausalLM",
    )
    return render_markdown("card.md.jinja", card)


def _manifest(path: Path) -> Manifest | None:
    return Manifest.parse(read_json(path), str(path)) if path.is_file() else None


def _adapter(model: Path) -> dict[str, str]:
    """What adapter_config.json says in words; empty where the directory holds a whole model."""
    path = model / "adapter_config.json"
    if not path.is_file():
        return {}
    found = read_json(path)
    return {key: str(found.get(key) or "") for key in ("base_model_name_or_path", "task_type")}


def _settings(run: Path) -> DistillSettings:
    path = run / "config.toml"
    return load_settings(DistillSettings, [path] if path.is_file() else [])


def _facts(facts: RunFacts, settings: DistillSettings) -> list[Fact]:
    caches = [settings.cache] if isinstance(settings.cache, str) else list(settings.cache)
    teacher = facts.origins.get("teacher") or settings.teacher or ", ".join(caches) or "?"
    stored = " (a cache)" if len(caches) == 1 else " (caches)"
    student = facts.origins.get("student") or settings.student or "?"
    return [
        Fact(
            name="teacher",
            code=_shown(teacher),
            text="" if settings.teacher else stored,
        ),
        Fact(name="student before", code=_shown(student)),
        Fact(name="loss", text=loss_in_words(settings.loss, has_two_tokenizers=bool(facts.teacher_tokenizer))),
        Fact(name="responses", text=f"{settings.source.kind}, {facts.sequences} sequences"),
        *(Fact(name=f"{role}'s fingerprint", code=value) for role, value in facts.models.items() if role != "student"),
        *(Fact(name=f"precision of {role}", text=text) for role, text in facts.precision.items()),
    ]


def _shown(place: str) -> str:
    """A name on the hub, or a directory as it was given; of an absolute path the end: the rest names a machine."""
    path = Path(place)
    return "/".join(path.parts[-2:]) if path.is_absolute() else place


def _judged(found: Verdict | OracleFreeVerdict) -> _Judged:
    return _Judged(headline=found.headline, meaning=MEANING.get(found.name, ""), reasons=tuple(reasons(found)))
