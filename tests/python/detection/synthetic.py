"""Synthetic runs, for tests only: run directories in thack's format with curves that were chosen.

Nothing here was trained. A curve is chosen (it falls as a power law, then stays level or rises), every prompt
gets its own difficulty, length and noise, and the files are written as `thack distill` writes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

READOUT = "forward_kl/reference_sampled"
STEPS = (0, 2, 3, 5, 8, 13, 21, 30, 48, 79, 130, 215, 354, 583, 960)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Golden and proxy as functions of the step; rises are per run end over minimum."""

    golden_start: float = 1.9
    golden_floor: float = 1.15
    golden_rise: float = 0.0
    proxy_start: float = 1.5
    proxy_floor: float = 0.60
    proxy_rise: float = 0.0
    proxy_fall: float = 0.10  # from the onset to the end
    baseline: float = 1.25
    onset: float = 79
    exponent: float = 1.2

    def golden(self, step: np.ndarray) -> np.ndarray:
        return _bend(step, self.golden_start, self.golden_floor, self.golden_rise, self)

    def proxy(self, step: np.ndarray) -> np.ndarray:
        after = self.proxy_rise if self.proxy_rise else -self.proxy_fall
        return _bend(step, self.proxy_start, self.proxy_floor, after, self)


def _bend(step: np.ndarray, start: float, floor: float, change: float, shape: Shape) -> np.ndarray:
    falling = floor + (start - floor) * (1 + step / 6) ** -shape.exponent
    at_onset = floor + (start - floor) * (1 + shape.onset / 6) ** -shape.exponent
    after = np.clip(np.log(np.maximum(step, 1) / shape.onset) / np.log(STEPS[-1] / shape.onset), 0, None)
    return np.where(step <= shape.onset, falling, at_onset * (1 + change * after)) if change else falling


SHAPES = {
    "hacking": Shape(golden_rise=0.09),
    "healthy": Shape(proxy_fall=0.3, golden_floor=1.03, proxy_floor=0.40),
    "over-fitting": Shape(golden_rise=0.12, proxy_rise=0.15),
    "regressing to the teacher": Shape(golden_rise=0.06, golden_floor=1.0, proxy_floor=0.08, proxy_fall=0.5),
}


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Per prompt: spread of difficulty, own noise at each checkpoint; and jitter common to all prompts."""

    difficulty: float = 0.5
    prompt: float = 0.12
    checkpoint: float = 0.004


def per_prompt(
    value_E: np.ndarray, num_prompts: int, noise: Noise, seed: int, tokens_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens [E, P] whose expectation over prompts is the curve."""
    rng = np.random.default_rng(seed)
    difficulty_P = rng.lognormal(-(noise.difficulty**2) / 2, noise.difficulty, num_prompts)
    own_EP = rng.lognormal(-(noise.prompt**2) / 2, noise.prompt, (len(value_E), num_prompts))
    jitter_E = np.exp(noise.checkpoint * rng.standard_normal(len(value_E)))
    nats_EP = (value_E * jitter_E)[:, None] * difficulty_P * own_EP * tokens_P
    return nats_EP, np.broadcast_to(tokens_P, nats_EP.shape)


def write_run(
    directory: Path,
    kind: str = "hacking",
    *,
    seed: int = 0,
    num_prompts: int = 256,
    steps: tuple[int, ...] = STEPS,
    noise: Noise | None = None,
    shape: Shape | None = None,
    with_prompts: bool = True,
    with_oracle: bool = True,
) -> Path:
    """Write metrics.jsonl, per_prompt.jsonl, config.toml and environment.json of a run that was not trained."""
    noise, shape = noise or Noise(), shape or SHAPES[kind]
    directory.mkdir(parents=True, exist_ok=True)
    step_E = np.array(steps, dtype=float)
    tokens_P = np.random.default_rng(seed + 99).integers(4, 29, num_prompts).astype(float)
    curves = {"proxy": shape.proxy(step_E)}
    if with_oracle:
        curves |= {"golden": shape.golden(step_E), "baseline": np.full(len(step_E), shape.baseline)}
    measured = {}
    for number, (name, value_E) in enumerate(curves.items()):
        quiet = Noise(difficulty=noise.difficulty, prompt=0.0, checkpoint=0.0) if name == "baseline" else noise
        measured[f"{name}/{READOUT}"] = per_prompt(value_E, num_prompts, quiet, 1000 * seed + number, tokens_P)
    rows, prompt_rows = _evaluation_rows(step_E, measured, kind, shape)
    (directory / "metrics.jsonl").write_text(_lines(_train_rows(steps[-1], kind, seed) + rows))
    if with_prompts:
        (directory / "per_prompt.jsonl").write_text(_lines(prompt_rows))
    _write_settings(directory, kind, seed)
    return directory


def _evaluation_rows(
    step_E: np.ndarray, measured: dict[str, tuple[np.ndarray, np.ndarray]], kind: str, shape: Shape
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    rows: list[dict[str, object]] = []
    prompt_rows: list[dict[str, object]] = []
    for index, step in enumerate(step_E):
        row: dict[str, object] = {"event": "evaluation", "step": int(step), "epoch": step / 16}
        prompts: dict[str, object] = {"step": int(step)}
        for column, (nats_EP, tokens_EP) in measured.items():
            value = float(nats_EP[index].sum() / tokens_EP[index].sum())
            row[f"{column}/token_mean"] = value
            row[f"{column}/token_mean/low"] = 0.94 * value
            row[f"{column}/token_mean/high"] = 1.06 * value
            row[f"{column}/sequence_sum"] = float(nats_EP[index].sum(axis=0) / nats_EP.shape[1])
            prompts[column] = {"nats": nats_EP[index].tolist(), "tokens": tokens_EP[index].tolist()}
        speed = 1.0 if kind in ("hacking", "over-fitting") else 0.32
        row["train_kl/monitor"] = float(1.4 * (1 + step / 6) ** (-0.45 * speed))
        row["train_kl/fresh"] = float(shape.proxy(np.array([step]))[0] * 0.95)
        row["generated_tokens"] = 9_000 if kind == "hacking" else int(9_000 * (1 + step / 16))
        row["teacher_tokens"] = int(550 * step)
        row["seconds"] = round(0.04 * step, 3)
        rows.append(row)
        prompt_rows.append(prompts)
    return rows, prompt_rows


def _train_rows(last: int, kind: str, seed: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    speed = 0.45 if kind in ("hacking", "over-fitting") else 0.15
    return [
        {
            "event": "train",
            "step": step,
            "epoch": step / 16,
            "loss": float(1.4 * (1 + step / 6) ** -speed * np.exp(0.06 * rng.standard_normal())),
            "lr": 1e-3,
            "grad_norm": 0.7,
            "tokens": 550,
            "seconds": round(0.04 * step, 3),
        }
        for step in range(1, last + 1, 2)
    ]


def _write_settings(directory: Path, kind: str, seed: int) -> None:
    source = "offline" if kind in ("hacking", "over-fitting") else "online-teacher"
    (directory / "config.toml").write_text(
        f'seed = {seed}\nepochs = 60\nbatch_size = 32\nout = "runs/x"\n\n[source]\nkind = "{source}"\n\n'
        '[optimizer]\nlearning_rate = 0.001\nschedule = "constant"\n'
    )
    (directory / "environment.json").write_text(
        json.dumps({"thack": "0.1.0", "python": "3.11.2", "torch": "2.15", "device": "cpu", "threads": 2})
    )


def _lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def across(directory: Path, *, keep: tuple[str, ...] = (), bytes_per_token: int = 3) -> Path:
    """Turn a run's metrics into log ratios per byte, as where tokenizers differ; those in `keep` are of ids too."""
    for file in ("metrics.jsonl", "per_prompt.jsonl"):
        rows = [json.loads(line) for line in (directory / file).read_text().splitlines()]
        (directory / file).write_text(_lines([_across(row, keep, bytes_per_token) for row in rows]))
    return directory


def _across(row: dict[str, object], keep: tuple[str, ...], size: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in row.items():
        if READOUT not in name or name.startswith(keep):
            found[name] = value
        if READOUT in name:
            other = name.replace("forward_kl", "log_ratio").replace("token_mean", "byte_mean")
            found[other] = value / size if isinstance(value, float) and "byte_mean" in other else value
            if isinstance(value, dict):
                found[other] = {**value, "bytes": [int(size * tokens) for tokens in value["tokens"]]}
    return found
