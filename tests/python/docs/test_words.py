"""Documents, messages and comments use the words of the field; docs/reference/glossary.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "python/thack/**/*.py", "python/thack/**/*.jinja", "rust/**/*.rs")
    for path in ROOT.glob(pattern)
    if path.name != "glossary.md"
)

#: What is not written here, and what is written instead.
NOT_WRITTEN = {
    r"\bstreets?\b": "pipeline",
    r"\bthe house\b": "the package",
    r"\bnobody\b": "a plain negation",
    r"\b(?:lies|lie) (?:there|beside|here)\b": "is",
    r"\b(?:goes|go|went|going) on\b(?! [a-z]+ing)\b": "resumes, continues",
    r"\bso many\b": "the number: k, N, how many",
    r"\bafresh\b": "newly sampled, on-policy, again",
    r"\bby heart\b": "memorised",
    r"\bturns? up\b": "starts to rise",
    r"\btwins?\b": "copy",
    r"\bcanary\b": "alignment check",
    r"\bthinned\b": "truncated, sampled",
    r"\b(?:prompt )?banks?\b": "evaluation set",
    r"\breadouts?\b": "metric",
    r"\band kin\b": "the list itself",
    r"\btraps? \d": "pitfall N, or the rule itself",
    r"\bwritten again\b": "newly sampled, rewritten",
    r"\b(?:DESIGN|RECIPE|TARGETS|PAPER)\b(?![\]/])": "a document that is in the repository",
}


@pytest.mark.parametrize("pattern", NOT_WRITTEN)
def test_the_word_is_not_written(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, f"write {NOT_WRITTEN[pattern]!r} instead:\n" + "\n".join(found)
