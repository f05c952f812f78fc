"""Kills a run with SIGKILL at random moments until it is done, and compares it with an undisturbed one.

    python killer.py OUT KILLS SEED

Every life is a fork of this process, which has imported everything and run nothing. A life is killed a few
milliseconds after a step drawn at random shows in the log, so that some die while they save. Prints one line.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch._dynamo  # noqa: F401 - once, before processes are forked: the first optimizer step imports it

from thack.training.checkpoint import checkpoints, latest_checkpoint, step_of
from training.small import rows, train

STEPS = 16


def life(out: Path) -> None:
    """A run of two hundred forwards with dropout and a checkpoint at every step, two of which are kept."""
    train(out, total_steps=STEPS, dropout=0.2, keep=2, evaluations=frozenset([0, 5, STEPS]))


def forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"life failed: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    return child


def steps_logged(out: Path) -> int:
    try:
        return (out / "metrics.jsonl").read_bytes().count(b'"event": "train"')
    except FileNotFoundError:
        return 0


def kill_at(out: Path, step: int, delay_s: float) -> bool:
    """Live until `step` is logged and a moment longer; whether the kill came before the end."""
    child = forked(lambda: life(out))
    while steps_logged(out) < step:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            assert code == 0, "a life ended by itself, and badly"
            return False
        time.sleep(0.001)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    _, code = os.waitpid(child, 0)
    return os.WIFSIGNALED(code)


def in_hex(out: Path) -> list[dict[str, object]]:
    return [{key: v.hex() if isinstance(v, float) else v for key, v in row.items()} for row in rows(out)]


def main(out: Path, kills: int, seed: int) -> None:
    random.seed(seed)
    whole, cut = out / "whole", out / "cut"
    os.waitpid(forked(lambda: life(whole)), 0)
    expected = in_hex(whole)
    assert len(expected) == STEPS + 3
    killed, lives, runs, remains = 0, 0, 0, 0
    while killed < kills:
        out_now = out / f"cut_{runs}"
        at = max((step_of(p) for p in checkpoints(out_now / "checkpoints")), default=0)
        killed += kill_at(out_now, random.randint(min(at + 1, STEPS), min(at + 6, STEPS)), random.uniform(0, 0.02))
        lives += 1
        remains += len(list((out_now / "checkpoints").glob(".step_*")))
        found, _ = latest_checkpoint(out_now / "checkpoints")
        if found is not None and step_of(found) == STEPS:
            _finish(out_now, expected)
            runs += 1
    cut = out / f"cut_{runs}"
    child = forked(lambda: life(cut))
    assert os.waitpid(child, 0)[1] == 0
    _finish(cut, expected)
    print(f"{killed} kills, {lives + 1} lives, {runs + 1} runs, {remains} half-written checkpoints: equal in hex")


def _finish(cut: Path, expected: list[dict[str, object]]) -> None:
    """Its curve is that of the undisturbed run."""
    child = forked(lambda: life(cut))
    assert os.waitpid(child, 0)[1] == 0
    assert in_hex(cut) == expected, cut


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
