"""README.md beside a student's weights: what it is, what is known of its hacking, and how to open it."""

from __future__ import annotations

from pathlib import Path

from thack.config import DistillSettings, load_settings
from thack.detection import OracleFreeVerdict, Verdict
from thack.files import write_text
from thack.reading import read_json
from thack.reporting.prose import MEANING, reasons
from thack.schema.run import Manifest, RunFacts

CARD = "README.md"


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
    if not (run / "model" / "config.json").is_file():
        return None
    path = run / "model" / CARD
    write_text(path, model_card(run, found))
    return path


def model_card(run: Path, found: Verdict | OracleFreeVerdict | None = None) -> str:
    """The text of a card: front matter for the hub, then plain words. Arguments and errors as of `write_card`."""
    manifest = _manifest(run / "manifest.json")
    base, _, commit = (manifest.facts.origins.get("student", "") if manifest else "").partition("@")
    front = ["---", "library_name: transformers", "tags:", "- thack", "- distillation"]
    front += [f"base_model: {base}"] if commit else []  # of the hub, at this commit
    parts = ["\n".join([*front, "---"]), f"# {run.resolve().name}"]
    if manifest is None:
        parts.append("Trained with thack.")
    elif manifest.command == "distill":
        parts += [_origin(manifest.facts, _settings(run)), "## Teacher hacking", _verdict(run, found)]
    else:
        parts.append(f"Trained with thack on {manifest.facts.sequences} pairs of prompt and response.")
    return "\n\n".join([*parts, "## Use", _use(run / "model" / "config.json")]) + "\n"


def _manifest(path: Path) -> Manifest | None:
    return Manifest.parse(read_json(path), str(path)) if path.is_file() else None


def _settings(run: Path) -> DistillSettings:
    path = run / "config.toml"
    return load_settings(DistillSettings, [path] if path.is_file() else [])


def _origin(facts: RunFacts, settings: DistillSettings) -> str:
    teacher = facts.origins.get("teacher") or settings.teacher or settings.cache or "?"
    lines = [
        f"- teacher: `{teacher}`" + ("" if settings.teacher else " (a cache)"),
        f"- student before: `{facts.origins.get('student') or settings.student or '?'}`",
        f"- loss: {settings.loss.divergence} at temperature {settings.loss.temperature:g}",
        f"- responses: {settings.source.kind}, {facts.sequences} sequences",
    ]
    lines += [f"- {role}'s fingerprint: `{value}`" for role, value in facts.models.items() if role != "student"]
    lines += [f"- precision of {role}: {text}" for role, text in facts.precision.items()]
    return "A student that thack distilled from its teacher.\n\n" + "\n".join(lines)


def _verdict(run: Path, found: Verdict | OracleFreeVerdict | None) -> str:
    if found is None:
        return f"Not judged yet: `thack verdict {run}` judges it by its curves and writes the verdict here."
    meaning = f": {MEANING[found.name]}" if found.name in MEANING else ""
    clauses = [f"- {reason}" for reason in reasons(found)]
    return "\n".join([f"**{found.headline}**{meaning}.", "", *clauses])


def _use(config: Path) -> str:
    encoder_decoder = bool(read_json(config).get("is_encoder_decoder"))
    cls = "AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM"
    code = [
        f"from transformers import {cls}, AutoTokenizer",
        f'model = {cls}.from_pretrained("PATH")',
        'tokenizer = AutoTokenizer.from_pretrained("PATH")',
    ]
    return "\n".join(["```python", *code, "```"])
