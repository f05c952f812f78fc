"""README.md of a cache on the hub: what it holds, of which teacher, and how to read it."""

from __future__ import annotations

from dataclasses import dataclass

from thack.reporting.markdown import render_markdown
from thack.reporting.model_card import Fact
from thack.schema.cache_content import Inspection


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """What `templates/cache.md.jinja` shows."""

    name: str
    repository: str
    facts: tuple[Fact, ...]
    losses: tuple[Fact, ...]


def cache_card(found: Inspection, repository: str) -> str:
    """The text of a card: front matter for the hub, then plain words.

    Args:
        found: What `cache inspect` says of the cache, which is complete.
        repository: ORG/NAME.
    """
    nll = found.teacher_nll
    facts = [
        Fact(name="kind", text=f"{found.kind}, {found.ids_per_token} ids a token of {found.vocab_size:,}"),
        Fact(name="content", text=f"{found.sequences:,} sequences, {found.tokens or 0:,} response tokens"),
        Fact(name="size", text=f"{found.bytes or 0:,} bytes, {found.bytes_per_token} a token"),
        Fact(name="precision", text=found.precision),
        *(Fact(name=name, code=value) for name, value in found.fingerprints.items()),
        Fact(name="made by", text=f"thack {found.made_by.thack}, {found.made_by.dtype}, seed {found.made_by.seed}"),
    ]
    if found.finished is not None:
        facts.append(Fact(name="responses that an end closes", text=f"{100 * found.finished:.1f} %"))
    if nll is not None and nll.nats_per_token is not None:
        facts.append(Fact(name="teacher's negative log-likelihood", text=f"{nll.nats_per_token:.3f} nats a token"))
    return render_markdown(
        "cache.md.jinja",
        _Page(
            name=repository.partition("/")[2],
            repository=repository,
            facts=tuple(facts),
            losses=tuple(Fact(name=name, text=text) for name, text in found.losses.items()),
        ),
    )
