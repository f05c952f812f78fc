"""What a stage will cost, before it runs: a rough count of tokens and floating-point operations.

A token passes through 12·h² parameters per layer and h·V of the LM head; an encoder before the decoder doubles the
layers. A forward pass costs 2 operations per parameter and token, a training step 6. Sampling a response goes token by
token, which uses a processor worse: its operations count `_SAMPLING` times. Lengths are the maxima times `_FILL`, as
measured on the embedded tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thack.config import DistillSettings
from thack.config.experiment import ExperimentSettings, RoleSettings
from thack.experiments.roles import model_directory
from thack.models.directory import read_config

_FILL = 0.6
_SAMPLING = 4.0
_EMBEDDED_PAIRS = 6000


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens that models read or write, and the operations for it."""

    tokens: float = 0.0
    operations: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tokens + other.tokens, self.operations + other.operations)


@dataclass(frozen=True, slots=True)
class CostEstimator:
    """The costs of one task's stages."""

    settings: ExperimentSettings
    max_prompt_tokens: int
    max_response_tokens: int

    @property
    def sequence_tokens(self) -> float:
        """Prompt and response, on average."""
        return _FILL * (self.max_prompt_tokens + self.max_response_tokens)

    def fine_tune(self, role: RoleSettings, num_pairs: int) -> Cost:
        """Train on pairs; `num_pairs` 0: about as many as an embedded corpus has."""
        tokens = (num_pairs or _EMBEDDED_PAIRS) * role.epochs * self.sequence_tokens
        return Cost(tokens, 6 * self.parameters(role) * tokens)

    def sample(self, role: RoleSettings, num_sequences: int) -> Cost:
        """Sample `num_sequences` responses, and compute their distributions."""
        tokens = num_sequences * self.sequence_tokens
        return Cost(tokens, 2 * _SAMPLING * self.parameters(role) * tokens)

    def score(self, role: RoleSettings, num_sequences: int) -> Cost:
        """Read `num_sequences` prompts with their responses once."""
        tokens = num_sequences * self.sequence_tokens
        return Cost(tokens, 2 * self.parameters(role) * tokens)

    def distill(self, run: DistillSettings, student: RoleSettings, teacher: RoleSettings, source: str) -> Cost:
        """Training, the evaluations, and what the source samples and the live teacher scores."""
        sequences = run.steps * run.batch_size
        tokens = sequences * self.sequence_tokens
        found = Cost(tokens, 6 * self.parameters(student) * tokens)
        share = {"offline": 0.0, "mixture": run.source.online_fraction}.get(source, 1.0)
        writer = student if source == "online-student" else teacher
        found += self.sample(writer, round(share * sequences))
        if not run.cache:
            found += Cost(0.0, 2 * self.parameters(teacher) * tokens)
        evaluation = self._evaluation(student, run.evaluation.student_samples)
        return found + Cost(evaluation.tokens * run.evaluation.count, evaluation.operations * run.evaluation.count)

    def _evaluation(self, student: RoleSettings, samples: bool) -> Cost:
        """Student, on responses of both references; its own samples are read by all three."""
        eval_set = self.settings.num_held_out_prompts
        tokens = 2 * eval_set * self.sequence_tokens
        found = Cost(tokens, 2 * self.parameters(student) * tokens)
        if samples:
            readers = sum(map(self.parameters, (self.settings.oracle, self.settings.teacher, student)))
            found += self.sample(student, eval_set) + Cost(0.0, readers * tokens)
        return found

    def parameters(self, role: RoleSettings) -> float:
        """What one token meets; of a directory, its weights' bytes by the width of their type."""
        if role.model:
            return _stored_parameters(model_directory(self.settings, role), len(role.layers))
        shape = role.architecture
        layers = shape.num_layers * (2 if shape.family == "encoder-decoder" else 1)
        return 12.0 * layers * shape.hidden_size**2 + shape.hidden_size * self._vocabulary()

    def _vocabulary(self) -> int:
        """Tokens of the vocabulary that all roles share."""
        oracle = self.settings.oracle
        if not oracle.model:
            return self.settings.tokenizer_size
        return int(read_config(model_directory(self.settings, oracle))["vocab_size"])


def _stored_parameters(directory: Path, kept_layers: int) -> float:
    """Of a model directory, or of some of its layers; 0: of all."""
    config = read_config(directory)
    width = 2 if "16" in str(config.get("torch_dtype", config.get("dtype", ""))) else 4
    stored = sum(path.stat().st_size for path in directory.glob("*.safetensors")) / width
    if not kept_layers:
        return stored
    tables = (1 if config.get("tie_word_embeddings") else 2) * config["vocab_size"] * config["hidden_size"]
    return float(tables + (stored - tables) * kept_layers / config["num_hidden_layers"])
