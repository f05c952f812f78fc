"""manifest.json of an evaluation set, and evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from thack.errors import DataError
from thack.schema.document import Document
from thack.schema.metric_rows import PerPromptRow
from thack.schema.metrics import Role

PROMPT_INFORMATION_FILE = "prompt_information.json"
_HUMAN = "responses of the file"
_DEFAULT_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSetOrigin:
    """Who wrote the responses of an evaluation set, and how; empty before there are any."""

    tokenizer: str = ""  # its fingerprint
    dropped_prompts: int = 0  # empty, or too long
    dropped_without_response: int | None = None  # of people; None: human responses were not asked for
    writers: Mapping[Role, str] = field(default_factory=dict)  # fingerprints of the models that wrote responses
    tokenizers: Mapping[Role, str] = field(default_factory=dict)  # of writers with another tokenizer
    seed: int | None = None
    max_new_tokens: int | None = None

    @property
    def longest(self) -> int:
        """The maximum of tokens in a response."""
        return _DEFAULT_TOKENS if self.max_new_tokens is None else self.max_new_tokens

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        human = {"human": _HUMAN, "dropped_without_response": self.dropped_without_response}
        sampled = {"seed": self.seed, "max_new_tokens": self.max_new_tokens}
        others = {role.value: fingerprint for role, fingerprint in self.tokenizers.items()}
        return {
            **({"tokenizer": self.tokenizer, "dropped_prompts": self.dropped_prompts} if self.tokenizer else {}),
            **({"tokenizers": others} if others else {}),
            **({} if self.dropped_without_response is None else human),
            **{role.value: fingerprint for role, fingerprint in self.writers.items()},
            **{key: value for key, value in sampled.items() if value is not None},
        }

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> EvalSetOrigin:
        """The inverse of `dump`."""
        dropped = raw.get("dropped_without_response")
        seed, longest = raw.get("seed"), raw.get("max_new_tokens")
        others = raw.get("tokenizers")
        return cls(
            tokenizer=str(raw.get("tokenizer", "")),
            dropped_prompts=_count(raw.get("dropped_prompts")) or 0,
            dropped_without_response=_count(dropped),
            writers={role: str(raw[role]) for role in Role if role is not Role.HUMAN and role in raw},
            tokenizers={Role(role): str(name) for role, name in others.items() if role in list(Role)}
            if isinstance(others, Mapping)
            else {},
            seed=_count(seed),
            max_new_tokens=_count(longest),
        )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSetManifest:
    """manifest.json of an evaluation set."""

    FORMAT: ClassVar[int] = 1

    prompts: int
    fingerprint: str
    origin: EvalSetOrigin

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "kind": "eval_set",
            "format": self.FORMAT,
            "prompts": self.prompts,
            "fingerprint": self.fingerprint,
            "origin": self.origin.dump(),
        }

    @classmethod
    def parse(cls, raw: object, what: str = "manifest.json") -> EvalSetManifest:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` is not an evaluation set of this format.
        """
        if isinstance(raw, Mapping) and raw.get("kind") == "eval_set" and raw.get("format") == cls.FORMAT:
            prompts, fingerprint, origin = (raw.get(key) for key in ("prompts", "fingerprint", "origin"))
            if isinstance(prompts, int) and isinstance(fingerprint, str) and isinstance(origin, Mapping):
                return cls(prompts=prompts, fingerprint=fingerprint, origin=EvalSetOrigin.parse(origin))
        raise DataError(f"{what} is not an evaluation set of format {cls.FORMAT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedModel:
    """A model that took part in an evaluation."""

    directory: str
    origin: str  # the directory, or `org/name@commit`
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedSet:
    """The evaluation set that was used."""

    fingerprint: str
    prompts: int
    origin: EvalSetOrigin


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """evaluation.json: what `thack evaluate` measured of one student, and with what."""

    SCHEMA: ClassVar[int] = 1

    models: Mapping[str, EvaluatedModel]  # by role, the student among them
    eval_set: EvaluatedSet
    seed: int
    columns: Mapping[str, float]  # metrics and health by name
    per_prompt: PerPromptRow

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "kind": "evaluation",
            "schema": self.SCHEMA,
            "models": {
                role: {"directory": model.directory, "origin": model.origin, "fingerprint": model.fingerprint}
                for role, model in self.models.items()
            },
            "eval_set": {
                "fingerprint": self.eval_set.fingerprint,
                "prompts": self.eval_set.prompts,
                "origin": self.eval_set.origin.dump(),
            },
            "seed": self.seed,
            "columns": dict(self.columns),
            "per_prompt": self.per_prompt.dump(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInformation(Document):
    """prompt_information.json: how much of a response's information comes from its prompt.

    All in nats per response token, of the oracle's own responses under the oracle.
    """

    SCHEMA: ClassVar[int] = 1
    FILE: ClassVar[str] = PROMPT_INFORMATION_FILE

    with_prompt: float  # −log p of the responses with the right prompts
    without_prompt: float  # the same with the prompts shuffled
    from_prompt_interval: tuple[float, float] | None  # 95 % over prompts, of the difference
    num_prompts: int
    num_shuffles: int

    @property
    def from_prompt(self) -> float:
        """What the prompt says of its response."""
        return self.without_prompt - self.with_prompt

    @property
    def share(self) -> float:
        """Of the information that a response has where nothing is known of its prompt; 0 where it has none."""
        return self.from_prompt / self.without_prompt if self.without_prompt > 0 else 0.0
