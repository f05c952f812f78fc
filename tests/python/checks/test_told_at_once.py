"""A mistake is told before torch is imported; commands that read headers and logs never import it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thack.cache.format.layout import RecordLayout
from thack.cache.format.plan import CachePlan
from thack.schema.cache import Fingerprints
from thack.schema.targets import TargetSpec


def kept(word: str) -> Callable[[CachePlan], CachePlan]:
    """A plan with other records."""
    return lambda plan: replace(plan, layout=replace(plan.layout, spec=TargetSpec.parse(word)))


CACHES: dict[str, Callable[[CachePlan], CachePlan]] = {
    "sampled": lambda plan: plan,
    "sampled-8": kept("sampled:8"),
    "top-4": kept("top-k:4"),
    "another-top-4": kept("top-k:4"),
    "top-8": kept("top-k:8"),
    "longer": lambda plan: replace(plan, firsts=(0, 7)),
    "foreign": lambda plan: replace(plan, fingerprints=replace(plan.fingerprints, tokenizer="other")),
}

# Runs each command line of stdin in one process; prints code, stderr, and whether torch is there.
_SCRIPT = """
import contextlib, io, json, resource, sys
from thack.cli import app
for arguments in json.load(sys.stdin):
    err, before = io.StringIO(), resource.getrusage(resource.RUSAGE_SELF)
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = app.run(arguments)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps([code, err.getvalue(), "torch" in sys.modules, spent]))
"""


def told(lines: list[list[str]], where: Path) -> list[tuple[int, str, bool, float]]:
    """Exit code, stderr, whether torch was imported, and CPU seconds of each command line."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], input=json.dumps(lines), capture_output=True, text=True, cwd=where, check=True
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of inputs, good and bad."""
    root = tmp_path_factory.mktemp("inputs")
    (root / "good.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (root / "empty.jsonl").write_text("\n")
    (root / "keys.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (root / "torn.jsonl").write_text('{"prompt": \n')
    for name, weights in (("good", "model.safetensors"), ("bin", "pytorch_model.bin")):
        (root / name).mkdir()
        (root / name / "config.json").write_text('{"vocab_size": 64}')
        (root / name / weights).write_text("")
    (root / "tok").mkdir()
    (root / "tok" / "tokenizer.json").write_text("{}")
    (root / "other").mkdir()
    (root / "other" / "thesis.tex").write_text("")
    prints = Fingerprints(teacher="a", tokenizer="b", data="c", settings="d")
    plan: dict[str, Any] = {"batch_size": 1, "seed": 0, "samples": 1, "device": "cpu", "dtype": "float32"}
    layout = RecordLayout(spec=TargetSpec.parse("sampled:4"), vocab_size=64)
    found = CachePlan(layout=layout, fingerprints=prints, firsts=(0, 1), threads=1, build="t", **plan)
    for name, changed in CACHES.items():
        (root / name).mkdir()
        (root / name / "plan.json").write_bytes(changed(found).to_bytes())
    return root


SFT = ["sft", "--out", "new"]
DISTILL = ["distill", "--out", "new", "--student", "good"]
CACHE = ["cache-logits", "--out", "new", "--teacher", "good", "--data", "good.jsonl"]
SERVED = ["cache-logits", "--out", "new", "--data", "good.jsonl", "--server", "http://localhost:9"]
HIDDEN = ["cache", "import-hidden", *CACHE[1:], "--hidden-states"]
LIVE = ["--teacher", "good", "--data", "good.jsonl"]
MIXED, OVERLAP, KEY = ["--cache-weight", "2,1"], ["--set", "cache_overlap=all"], ["--set", "cache_weight_key=w"]
MISTAKES: list[tuple[list[str], str]] = [
    (["distill"], "distilling needs a student"),
    (["distill", "--student", "nope", "--cache", "sampled"], "no such model directory: nope"),
    ([*DISTILL, "--teacher", "bin", "--data", "good.jsonl"], "pickled weights are not loaded"),
    ([*DISTILL, "--teacher", "other", "--data", "good.jsonl"], "no config.json in other"),
    ([*DISTILL, "--cache", "nope"], "nope does not exist"),
    ([*DISTILL, "--cache", "other"], "other is not a cache"),
    ([*DISTILL, "--cache", "sampled", "--divergence", "jsd"], "jsd is not defined on sampled targets"),
    ([*DISTILL, "--cache", "sampled", "--source", "online-teacher"], "does not go with a cache"),
    ([*DISTILL, "--cache", "sampled", "--cache", "nope"], "nope does not exist"),
    ([*DISTILL, "--cache", "sampled", "--cache", "./sampled"], "a cache is given twice"),
    ([*DISTILL, "--cache", "sampled", "--cache", "top-4"], "top-4 holds other records than sampled"),
    ([*DISTILL, "--cache", "top-4", "--cache", "top-8"], "top-8 holds other records than top-4"),
    ([*DISTILL, "--cache", "sampled", "--cache", "foreign"], "different tokenizers"),
    ([*DISTILL, *MIXED, "--cache", "top-4", "--cache", "another-top-4"], "top-k caches cannot be mixed"),
    ([*DISTILL, *MIXED, "--cache", "sampled", "--cache", "longer"], "only caches of the same sequences"),
    ([*DISTILL, *MIXED, "--cache", "sampled"], "cache_weights is given with fewer than two caches"),
    ([*DISTILL, "--cache", "sampled", "--cache", "sampled-8", "--cache-weight", "1"], "1 cache_weights for 2 caches"),
    ([*DISTILL, "--cache", "sampled", "--cache", "sampled-8", "--cache-weight", "0,0"], "all 0"),
    (
        [*DISTILL, *MIXED, "--cache", "sampled", "--cache", "sampled-8", *OVERLAP],
        "does not go with caches that are mixed",
    ),
    ([*DISTILL, "--cache", "sampled", "--cache", "sampled-8", *KEY], "names a column of the data"),
    ([*DISTILL, "--divergence", "kl"], "must be forward_kl | reverse_kl"),
    ([*DISTILL, "--cache", "sampled", "--teacher", "good", "--eval-data", "none.jsonl"], "none.jsonl does not exist"),
    ([*DISTILL, "--cache", "sampled", "--teacher", "good", "--eval-data", "other"], "no evaluation set in other"),
    (["distill", "--out", "other", "--student", "good", "--cache", "sampled"], "has files that thack did not write"),
    (["distill", "--student", "--cache", "sampled"], "see: thack distill --help"),
    ([*DISTILL, "--epochs", "2", "--epochs", "3"], "--epochs: given twice"),
    ([*DISTILL, "--set", "epochs=2", "--set", "epochs=3"], "--set epochs: given twice"),
    ([*DISTILL, "--epochs", "many"], 'epochs = "many": must be a whole number'),
    (SFT, "there is nothing to train on"),
    ([*SFT, "--data", "none.jsonl"], "none.jsonl does not exist"),
    ([*SFT, "--data", "empty.jsonl"], "empty.jsonl holds no prompts"),
    ([*SFT, "--data", "torn.jsonl"], "torn.jsonl:1: not JSON"),
    ([*SFT, "--data", "keys.jsonl"], "--prompt-key question"),
    ([*SFT, "--data", "good.jsonl", "--model", "bin"], "pickled weights are not loaded"),
    (["sft", "--out", "good.jsonl", "--data", "good.jsonl"], "--out good.jsonl is a file"),
    (["generate", "--data", "good.jsonl"], "generating needs a model"),
    (["generate", "--model", "good", "--data", "keys.jsonl"], "it has question, answer"),
    ([*CACHE, "--top-k", "0"], "top_k = 0: must be 1 or more"),
    ([*CACHE, "--samples", "2"], "needs generate = true"),
    (["cache-logits", "--data", "good.jsonl"], "no teacher is given"),
    (["cache", "probe", "--teacher", "good", "--data", "none.jsonl"], "none.jsonl does not exist"),
    ([*CACHE, "--top-k", "65"], "top_k = 65: the teacher's vocabulary has 64 ids"),
    ([*CACHE, "--sampled", "65"], "sampled = 65: the teacher's vocabulary has 64 ids"),
    ([*CACHE, "--set", "sampled=4"], "sampled = 4 belongs to kind = sampled, not top-k"),
    ([*DISTILL, *LIVE, "--set", "target.kind=top-k", "--set", "target.k=65"], "target.k = 65: the teacher's vocab"),
    ([*SERVED, "--teacher", "good"], "--teacher and --server are both given"),
    (SERVED, "needs its tokenizer"),
    ([*SERVED, "--tokenizer", "good"], "no tokenizer.json in good"),
    ([*SERVED, "--tokenizer", "good", "--kind", "dense"], "kind = dense: a server gives the most likely ids"),
    ([*SERVED, "--tokenizer", "good", "--dry-run"], "neither estimated nor probed"),
    (
        ["cache-logits", "--server", "http://localhost:9", "--data", "none.jsonl", "--tokenizer", "tok"],
        "does not exist",
    ),
    (["cache", "import-hidden", *CACHE[1:]], "no hidden states are given"),
    ([*HIDDEN, "nope"], "hidden_states = nope: no directory"),
    ([*HIDDEN, "other"], "holds no .safetensors file"),
    ([*HIDDEN, "good", "--top-k", "65"], "top_k = 65: the teacher's vocabulary has 64 ids"),
    ([*HIDDEN, "good", "--set", "generate=true"], "hidden states are of responses that were given"),
    (["evaluate", "--student", "good", "--eval-data", "good.jsonl"], "evaluating needs a reference"),
    (["verdict", "nope"], "nope does not exist"),
    (["report", "other"], "other is not a run: it has no metrics.jsonl"),
    (["experiment", "laptop", "--cell", "x"], "--cell: must be a whole number"),
    (["experiment", "laptop", "--set", "distill.device=gpu"], "must be auto, cpu, cuda, cuda:1 or mps"),
    ([*SFT, "--data", "good.jsonl", "--device", "gpu"], 'device = "gpu": must be auto, cpu, cuda, cuda:1 or mps'),
]
NO_TORCH = [["--help"], ["distill", "--help"], ["cache", "inspect", "sampled"], ["cache", "verify", "sampled"]]
NO_TORCH += [["verdict", "log.jsonl"], ["report", "other"]]


def test_mistakes_are_told_before_torch_is_imported(place: Path) -> None:
    (place / "log.jsonl").write_text('{"step": 1, "eval/kl": 2.0}\n')
    lines = [line for line, _ in MISTAKES] + NO_TORCH
    found = told(lines, place)
    for (line, message), (code, err, has_torch, spent) in zip(MISTAKES, found, strict=False):
        assert code in (1, 2) and message in err, f"{' '.join(line)}: {err}"
        assert "should not happen" not in err and not has_torch, f"{' '.join(line)} imports torch"
        assert spent < 1, f"{' '.join(line)} takes {spent:.1f} CPU seconds"
    for line, (_, err, has_torch, _) in zip(NO_TORCH, found[len(MISTAKES) :], strict=True):
        assert "should not happen" not in err and not has_torch, f"{' '.join(line)} imports torch"
    assert not (place / "new").exists()


def test_good_input_is_not_refused(place: Path) -> None:
    from thack.checks import check_capture, check_distill, check_sft
    from thack.config import CacheSettings, DataSettings, DistillSettings, SftSettings

    data = DataSettings(path=str(place / "good.jsonl"))
    check_sft(SftSettings(out=place / "new", data=data))
    check_capture(CacheSettings(out=place / "new", teacher=str(place / "good"), data=data))
    check_capture(CacheSettings(out=place / "new", teacher="org/on-the-hub", data=data))
    for names in (["sampled"], ["sampled", "sampled-8"], ["top-4", "another-top-4"]):
        caches = tuple(str(place / name) for name in names)
        check_distill(DistillSettings(out=place / "new", student=str(place / "good"), cache=caches))


def test_a_run_that_has_begun_is_resumed_without_what_it_began_with(place: Path, tmp_path: Path) -> None:
    from thack.checks import check_distill
    from thack.config import DistillSettings

    (tmp_path / "thack.json").write_text('{"kind": "run", "format": 1}')
    (tmp_path / "checkpoints" / "step_000001").mkdir(parents=True)
    check_distill(DistillSettings(out=tmp_path, student="moved", cache=str(place / "moved")))


def test_native_models_load_without_the_compiler(tmp_path: Path) -> None:
    from thack.config import ArchitectureSettings
    from thack.data.tokenizer import Tokenizer
    from thack.models.load import new_decoder

    tokenizer = Tokenizer.train(["a b c"], 264)
    new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0).save(tmp_path / "m")
    code = "import sys; from thack.models.load import load_model; load_model(sys.argv[1]);"
    code += "sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], check=True)


def test_probe_and_estimate_need_a_teacher_that_is_here(place: Path) -> None:
    from thack.checks import check_capture
    from thack.config import CacheSettings, DataSettings, ServerSettings
    from thack.errors import UsageError

    served = ServerSettings(url="http://localhost:9", tokenizer=str(place / "tok"))
    settings = CacheSettings(server=served, data=DataSettings(path=str(place / "good.jsonl")), out=place / "new")
    assert check_capture(settings) is settings
    with pytest.raises(UsageError, match="neither estimated nor probed"):
        check_capture(settings, writes=False)
