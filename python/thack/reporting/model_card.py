"""README.md beside a student's weights: what it is, what is known of its hacking, and how to open it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thack.detection import OracleFreeVerdict, Verdict
from thack.files import read_json, write_text
from thack.reporting.prose import MEANING, reasons
from thack.schema.run import Manifest

CARD = "README.md"


def write_card(run: Path, found: Verdict | OracleFreeVerdict | None = None) -> Path | None:
    """Write model/README.md of a run directory, with the verdict if there is one; None without a model."""
    if not (run / "model" / "config.json").is_file():
        return None
    path = run / "model" / CARD
    write_text(path, model_card(run, found))
    return path


def model_card(run: Path, found: Verdict | OracleFreeVerdict | None = None) -> str:
    """The text: front matter for the hub, then plain words."""
    manifest, settings = _manifest(run / "manifest.json"), _settings(run / "config.toml")
    parts = [_front_matter(manifest), f"# {run.resolve().name}", _origin(manifest, settings)]
    if manifest is not None and manifest.command == "distill":
        parts += ["## Teacher hacking", _verdict(run, found)]
    parts += ["## Use", _use(run / "model" / "config.json")]
    return "\n\n".join(parts) + "\n"


def _manifest(path: Path) -> Manifest | None:
    return Manifest.parse(read_json(path), str(path)) if path.is_file() else None


def _settings(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}


def _front_matter(manifest: Manifest | None) -> str:
    lines = ["library_name: transformers", "tags:", "- thack", "- distillation"]
    base, _, commit = (manifest.facts.origins.get("student", "") if manifest else "").partition("@")
    if commit:  # a model of the hub, at this commit
        lines += [f"base_model: {base}"]
    return "\n".join(["---", *lines, "---"])


def _origin(manifest: Manifest | None, settings: Mapping[str, Any]) -> str:
    if manifest is None:
        return "Trained with thack."
    if manifest.command != "distill":
        return f"Trained with thack on {manifest.facts.sequences} pairs of prompt and response."
    origins = manifest.facts.origins
    teacher = origins.get("teacher") or settings.get("teacher") or settings.get("cache") or "?"
    loss, source = settings.get("loss", {}), settings.get("source", {})
    lines = [
        f"- teacher: `{teacher}`" + (" (a cache)" if not settings.get("teacher") else ""),
        f"- student before: `{origins.get('student') or settings.get('student', '?')}`",
        f"- loss: {loss.get('divergence', 'forward_kl')} at temperature {loss.get('temperature', 1.0):g}",
        f"- responses: {source.get('kind', 'offline')}, {manifest.facts.sequences} sequences",
    ]
    models = manifest.facts.models
    lines += [f"- {role}'s fingerprint: `{value}`" for role, value in models.items() if role != "student"]
    return "A student that thack distilled from its teacher.\n\n" + "\n".join(lines)


def _verdict(run: Path, found: Verdict | OracleFreeVerdict | None) -> str:
    if found is None:
        return f"Not judged yet: `thack verdict {run}` reads it off the run's curves and writes it here."
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
