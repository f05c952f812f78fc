"""Stops each verb by signals at random moments, and starts it again until it is done: the files are the same.

    python stopper.py OUT STOPS SEED [VERB …]

Every start is a fork of this process, which has imported everything and run nothing. Half of them get a second signal.
Prints one line for each verb. Two starts at once of one `distill` come last, and a grid that is stopped at three of its
stages.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch._dynamo  # noqa: F401 - once, before processes are forked: the first optimizer step imports it

from experiments.small import settings, write_sums
from thack.cache.capture.job import capture
from thack.config import CacheSettings, EvaluateSettings, EvaluationSettings, GenerateSettings, SftSettings
from thack.errors import ThackError
from thack.evaluation import run_evaluate
from thack.experiments.grid import run_grid
from thack.generation.run import run_generate
from thack.runtime import preemption
from thack.runtime.status import read_status
from thack.training import run_distill, run_sft
from training.killer import in_hex
from training.world import DATA, build_world, distill_settings, records, write

CODES = {signal.SIGTERM: 75, signal.SIGUSR2: 75, signal.SIGINT: 130}


def verbs(world: Path) -> dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]]:
    """What each does with a directory, and what of it must not depend on stops."""
    prompts = str(write(world / "many.jsonl", records(40)))
    data, pairs = replace(DATA, path=prompts), replace(DATA, path=str(world / "prompts.jsonl"))
    sft = SftSettings(data=pairs, model=str(world / "student"), epochs=3, batch_size=2, device="cpu")
    generate = GenerateSettings(model=str(world / "teacher"), data=data, samples=3, batch_size=4, device="cpu")
    cache = CacheSettings(teacher=str(world / "teacher"), data=data, generate=True, shard_tokens=24, device="cpu")
    evaluate = EvaluateSettings(
        student=str(world / "student"),
        teacher=str(world / "teacher"),
        oracle=str(world / "oracle"),
        eval_data=prompts,
        data=DATA,
        evaluation=EvaluationSettings(bootstrap=20, batch_size=4),
        device="cpu",
    )
    return {
        "generate": (lambda out: run_generate(replace(generate, out=out)), lambda out: content(out, "*.json*")),
        "evaluate": (lambda out: run_evaluate(replace(evaluate, out=out)), lambda out: out.read_bytes()),
        "cache-logits": (lambda out: capture(replace(cache, out=out)), lambda out: content(out, "shards/*")),
        "sft": (lambda out: run_sft(replace(sft, out=out)), in_hex),
        "distill": (lambda out: run_distill(distill_settings(world, out)), in_hex),
    }


def content(out: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob(pattern) if path.name != "STATUS.json"}


def forked(work: Callable[[Path], object], out: Path) -> int:
    """A child that does it as the command line would: with its code, and with its answer to signals."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        preemption.install()
        work(out)
        code = 0
    except ThackError as error:
        code = error.exit_code
    except preemption.StopRequest:
        code = 75
    except KeyboardInterrupt:
        code = 130
    os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stopped(work: Callable[[Path], object], out: Path, delay_s: float, number: signal.Signals) -> int:
    child = forked(work, out)
    time.sleep(delay_s)
    for _ in range(random.choice((1, 2))):
        os.kill(child, number)  # a zombie takes it too
        time.sleep(0.01)
    return ended(child)


def check(name: str, out: Path, code: int, number: signal.Signals) -> None:
    """The code is a documented one, and STATUS.json says the same."""
    assert code in (0, CODES[number]), f"{name}: ended with {code} after {number.name}"
    status = read_status(out) if out.is_dir() else None
    if status is not None:
        expected = ("finished", 0) if code == 0 else ("stopped", code)
        assert (status.state, status.exit_code) == expected, f"{name}: {code}, but {status}"


def main(root: Path, stops: int, seed: int, names: list[str]) -> None:
    random.seed(seed)
    assert ended(forked(build_world, root / "world")) == 0
    known = verbs(root / "world")
    for name in names or known:
        print(f"{name}: {stopped_until_done(root / name, name, *known[name], stops)}: equal", flush=True)
    if "distill" in (names or known):
        together(root, *known["distill"])
    print(f"experiment: {grid_stopped_at_its_stages(root / 'experiment')}: equal", flush=True)


def stopped_until_done(
    root: Path, name: str, work: Callable[[Path], object], kept: Callable[[Path], object], stops: int
) -> str:
    started = time.monotonic()
    assert ended(forked(work, root / "whole")) == 0, name
    takes_s, done, runs, cut = time.monotonic() - started, 0, 1, root / "cut1"
    while done < stops:
        number = random.choice(list(CODES))
        code = stopped(work, cut, random.uniform(0, takes_s), number)
        check(name, cut, code, number)
        done += code != 0
        if code == 0:
            assert kept(cut) == kept(root / "whole"), name
            runs, cut = runs + 1, root / f"cut{runs + 1}"
    assert ended(forked(work, cut)) == 0, name
    assert kept(cut) == kept(root / "whole"), name
    left = [path.name for path in root.iterdir() if path.name.startswith(".")]
    assert not left, left
    return f"{done} stops, {runs} runs"


def together(root: Path, work: Callable[[Path], object], kept: Callable[[Path], object]) -> None:
    """Two starts into one directory at the same moment."""
    out = root / "together"
    assert [ended(child) for child in [forked(work, out), forked(work, out)]] == [0, 0]
    assert kept(out) == kept(root / "distill" / "whole")
    print("two at once: equal")


def grid_stopped_at_its_stages(root: Path) -> str:
    """Signals at the start, while the oracle is trained, and within a cell."""
    chosen = settings(write_sums(root / "data"), "figures=['F5']", "arms=['offline', 'online-teacher']")
    whole, cut = root / "whole", root / "cut"

    def work(out: Path) -> None:
        run_grid(chosen, out)

    assert ended(forked(work, whole)) == 0
    moments = {"STATUS.json": signal.SIGTERM, "stages/oracle-*/metrics.jsonl": signal.SIGUSR2}
    for pattern, number in (moments | {"runs/*/metrics.jsonl": signal.SIGINT}).items():
        child = forked(work, cut)
        while not any(cut.glob(pattern)):
            time.sleep(0.001)
        os.kill(child, number)
        code = ended(child)
        assert code == CODES[number], f"{pattern}: ended with {code}"
        check("experiment", cut, code, number)
    assert ended(forked(work, cut)) == 0
    runs = sorted(path.name for path in (whole / "runs").iterdir())
    assert len(runs) == 2 and [in_hex(cut / "runs" / name) for name in runs] == [
        in_hex(whole / "runs" / name) for name in runs
    ]
    return "3 stops"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
