"""What each command prints: lines for people, one JSON document for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thack import api
from thack.cli.progress import LineProgress
from thack.config import ExperimentSettings
from thack.detection import Score
from thack.errors import DataError, ThackError
from thack.experiments.demo import DemoResult, DemoRun
from thack.experiments.forecast import Forecast
from thack.experiments.grid import GridResult
from thack.experiments.outcome import CellOutcome
from thack.runtime.progress import SILENT
from thack.schema.cache_content import Damage, Inspection, Origin, Verification
from thack.schema.cache_size import CaptureEstimate, CorpusSize, ProbeResult, Recommendation, TargetCost
from thack.schema.data import ShownData, ShownPiece, ShownSequence
from thack.schema.evaluation import EvalSetOrigin, EvaluatedModel, EvaluatedSet, EvaluationResult
from thack.schema.generation import GenerateResult
from thack.schema.metric_rows import PerPromptRow
from thack.schema.preflight import Finding, Preflight
from thack.schema.verdict import Extent, Margins, Verdict
from thack.training import RunResult

from .conftest import Calls, Run

EXTENT = Extent(column="golden", start=1.9, minimum=1.1, minimum_step=79, end=1.2, end_step=960, rise=0.0909)
HACKING = Verdict(
    name="hacking",
    run="a",
    golden=EXTENT,
    proxy=replace(EXTENT, column="proxy", end=0.6),
    num_evaluations=12,
    num_prompts=64,
    onset_step=79,
    onset_interval=(48, 130),
    proxy_at_onset=0.7,
    proxy_change=-0.1,
)
HEALTHY = Verdict(name="healthy", run="b", golden=None, proxy=None, num_evaluations=12, num_prompts=64)
ESTIMATE = CaptureEstimate(
    out="cache",
    sequences=1000,
    tokens=128_000,
    is_upper_bound=False,
    expected_tokens=128_000,
    shards=2,
    bytes_per_token=176,
    bytes=22_528_000,
    tokens_per_s=1000.4,
    seconds=128.0,
)
VERIFIED = Verification(
    directory="cache",
    ok=True,
    complete=True,
    full=False,
    shards=3,
    sequences=10,
    tokens=1234,
    bytes=5_600_000,
    damaged=(),
)


def test_sft_and_cache_logits_name_their_directory(run: Run, calls: Calls) -> None:
    calls.answer("sft", Path("runs/a/model"))
    assert run("sft").out == "model: runs/a/model\n"
    assert run("sft", "--json").document == {"out": "runs/a/model"}
    calls.answer("cache_logits", Path("cache"))
    assert run("cache-logits").out == "cache: cache · look inside with: thack cache inspect cache\n"
    assert run("cache-logits", "--json").document == {"out": "cache"}


def test_generate_counts_what_it_wrote(run: Run, calls: Calls) -> None:
    written = GenerateResult(
        out=Path("r"), responses=1200, tokens=34_567, finished=0.985, truncated=0.01, content="sha256:0"
    )
    calls.answer("generate", written)
    assert run("generate").out == "1,200 responses · 34,567 tokens · 98.5% end with an end-of-response token · r\n"
    assert run("generate", "--json").document == {
        "out": "r",
        "responses": 1200,
        "tokens": 34_567,
        "finished": 0.985,
        "truncated": 0.01,
        "content": "sha256:0",
    }


def test_a_dry_run_shows_sizes_and_writes_nothing(run: Run, calls: Calls) -> None:
    calls.answer("estimate_cache", ESTIMATE)
    out = run("cache-logits", "--dry-run").out
    assert "128,000" in out and "22.5 MB (176 a token)" in out and "about 2 min 8 s" in out
    assert out.endswith("nothing was written to cache\n")
    calls.answer("estimate_cache", replace(ESTIMATE, is_upper_bound=True, expected_tokens=99_000))
    assert "at most 128,000, likely 99,000" in run("cache-logits", "--dry-run").out
    assert run("cache-logits", "--dry-run", "--json").document["expected_tokens"] == 99_000
    assert "cache_logits" not in calls


def test_distill_says_what_to_do_next_where_it_was_evaluated(run: Run, calls: Calls) -> None:
    calls.answer("distill", RunResult(path=Path("runs/a"), model=Path("runs/a/model"), steps=12))
    assert run("distill").out == "run: runs/a · 12 steps · student: runs/a/model\n"
    assert "next: thack verdict runs/a · thack report runs/a" in run("distill", "--eval-data", "e").out
    assert run("distill", "--json").document == {"run": "runs/a", "student": "runs/a/model", "steps": 12}


def test_evaluate_shows_metrics_with_their_intervals(run: Run, calls: Calls) -> None:
    name = "golden/forward_kl/reference_sampled/token_mean"
    result = EvaluationResult(
        models={"student": EvaluatedModel(directory="s", origin="s", fingerprint="f")},
        eval_set=EvaluatedSet(fingerprint="f", prompts=8, origin=EvalSetOrigin()),
        seed=0,
        columns={name: 1.25, f"{name}/low": 1.0, f"{name}/high": 1.5, "health/entropy": 0.00012},
        per_prompt=PerPromptRow(step=None, metrics={}),
    )
    calls.answer("evaluate", result)
    out = run("evaluate").out
    assert "1.2500" in out and "1.0000 … 1.5000" in out and "0.00012" in out
    assert f"{name}/low" not in out and out.endswith("written: evaluation.json\n")
    assert run("evaluate", "--json").document["columns"][name] == 1.25


def test_verdict_prints_the_headline_and_every_reason(run: Run, calls: Calls) -> None:
    calls.answer("verdict", HACKING)
    out = run("verdict", "runs/a").out
    assert out.startswith("a: HACKING from step 79 [48, 130]\n")
    assert all(f"  · {sentence}\n" in out for sentence in api.explain(HACKING))
    document = run("verdict", "runs/a", "--json").document
    assert document["name"] == "hacking" and document["reasons"] == api.explain(HACKING)
    assert [one["name"] for one in run("verdict", "a", "b", "--json").document] == ["hacking", "hacking"]


def test_verdict_passes_margins_thresholds_and_columns_on(run: Run, calls: Calls) -> None:
    calls.answer("verdict", HEALTHY)
    sets = ["--set", "margins.rise=0.05", "--set", "thresholds.gap=3"]
    assert run("verdict", "log.jsonl", "--map", "golden=g, step=s", *sets, "--fail-on-hacking").code == 0
    (path,), keywords = calls["verdict"]
    assert path == Path("log.jsonl") and keywords["mapping"] == {"golden": "g", "step": "s"}
    assert keywords["margins"] == Margins(rise=0.05) and keywords["thresholds"].gap == 3


def test_scores_are_a_row_per_detector(run: Run, calls: Calls) -> None:
    score = Score(
        detector="slope ratio",
        threshold=0.5,
        fires="below",
        num_rising=3,
        num_healthy=2,
        hits=2,
        false_alarms=0,
        silent=0,
        auc=0.9,
        roc=((0, 0), (1, 1)),
        leads=(-0.5,),
        rises=(0.01,),
    )
    never = replace(score, detector="gap", hits=0, auc=None, leads=(), rises=())
    calls.answer("score_detectors", (score, never))
    out = run("verdict", "a", "b", "--score").out
    assert "2 of 3" in out and "0 of 2" in out and "−0.50" in out and "+1.0 %" in out and "–" in out
    assert run("verdict", "a", "--score", "--json").document[0]["detector"] == "slope ratio"


SHOWN = ShownData(
    counts={"records": 4, "kept": 3, "without_response": 1, "finished": 3},
    skipped=("chats.jsonl:2: refused",),
    warnings=("use `data.control_tokens = text`",),
    ends=("</s>", "<|im_end|>"),
    turn_end="<|im_end|>",
    prompt_tokens=30,
    trained_tokens=12,
    sequences=(
        ShownSequence(
            prompt_id="a",
            ids=(1, 2, 3),
            tokens=("<s>", "hi", "</s>"),
            trained=(0, 1, 1),
            pieces=(
                ShownPiece(text="<s>", trained=False, control=True),
                ShownPiece(text="hi", trained=True, control=False),
                ShownPiece(text="</s>", trained=True, control=True),
            ),
            finished=True,
        ),
    ),
)


def test_data_show_marks_what_is_trained(run: Run, calls: Calls) -> None:
    calls.answer("show_data", SHOWN)
    done = run("data", "show", "chats.jsonl", "--model", "m", "--train-on", "all")
    assert done.out.splitlines() == [
        "── a 1 prompt tokens, 2 trained · finished",
        "<s>⟦hi</s>⟧",
        "prompt · control token · trained · trained control token",
        "3 sequences of 4 records · 30 prompt tokens, 12 trained · 1 without response · ends: </s>, <|im_end|>",
        "skipped chats.jsonl:2: refused",
        "warning: use --set data.control_tokens=text",
    ]
    (settings,), _ = calls["show_data"]
    assert (settings.data.path, settings.model, settings.data.train_on) == ("chats.jsonl", "m", "all")
    assert run("data", "show", "chats.jsonl", "--json").document["sequences"][0]["trained"] == [0, 1, 1]


def test_report_and_corpus_name_their_files(run: Run, calls: Calls) -> None:
    calls.answer("report", Path("r.html"))
    assert run("report", "a", "b").out == "report: r.html\n"
    assert calls["report"][0] == ([Path("a"), Path("b")], None)
    calls.answer("corpus", {Path("d/pairs.jsonl"): 12_345})
    assert run("corpus", "--out", "d").out == "d/pairs.jsonl: 12,345 lines\n"
    assert run("corpus", "--json").document == {"d/pairs.jsonl": 12_345}


def test_corpus_writes_files_that_commands_read(run: Run, tmp_path: Path) -> None:
    document = run("corpus", "--out", str(tmp_path / "data"), "--held-out", "8", "--json").document
    for name, lines in document.items():
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        assert len(rows) == lines and {"id", "prompt", "response"} == set(rows[0])


def test_inspect_is_a_table_of_facts(run: Run, calls: Calls) -> None:
    found = Inspection(
        directory="cache",
        complete=False,
        shards=4,
        missing_shards=(2, 3),
        kind="top-k",
        ids_per_token=64,
        vocab_size=32_000,
        bytes_per_token=176,
        temperatures=(1.0, 2.0),
        exact_tail=True,
        precision="log-probs in 8 bits",
        losses={"forward_kl": "a lower bound"},
        sequences=10,
        tokens=None,
        bytes=None,
        fingerprints={"plan": "sha256:1"},
        made_by=Origin(thack="0.1.0", device="cpu", dtype="float32", seed=0),
    )
    calls.answer("inspect_cache", found)
    lines = [line.split(maxsplit=1) for line in run("cache", "inspect", "cache").out.splitlines()]
    shown = {key: rest.strip() for key, rest in lines}
    assert shown["complete"] == "no" and shown["kind"] == "top-k"
    out = run("cache", "inspect", "cache").out
    assert "32,000" in out and "2, 3" in out and "not yet known: shards are missing" in out
    assert "losses: forward_kl" in out and "made_by: device" in out
    assert run("cache", "inspect", "cache", "--json").document == found.dump()


def test_verify_says_how_thoroughly_it_looked(run: Run, calls: Calls) -> None:
    calls.answer("verify_cache", VERIFIED)
    done = run("cache", "verify", "cache")
    assert done.out == "3 shards, 1,234 tokens, 5.6 MB, all intact (frames only; --full reads every byte)\n"
    calls.answer("verify_cache", replace(VERIFIED, full=True))
    assert run("cache", "verify", "cache", "--full").out.endswith("all intact\n")
    assert calls["verify_cache"][1]["full"] is True


@pytest.mark.parametrize("as_json", [False, True])
def test_damage_is_exit_code_1_with_each_file(as_json: bool, run: Run, calls: Calls) -> None:
    damage = tuple(Damage(shard=n, file=f"shard-{n}", cause="missing") for n in range(25))
    calls.answer("verify_cache", replace(VERIFIED, ok=False, shards=30, damaged=damage))
    done = run("cache", "verify", "cache", *(["--json"] if as_json else []))
    assert done.code == 1
    if as_json:
        assert len(done.document["damaged"]) == 25 and done.err == ""
    else:
        assert "cache: 25 of 30 shards are missing or damaged" in done.err
        assert done.err.count("missing\n") == 20 and "…" in done.err and "run the same thack cache-logits" in done.err


def test_a_damaged_manifest_is_no_damaged_shard(run: Run, calls: Calls) -> None:
    damage = (Damage(shard=None, file="manifest.json", cause="not JSON"),)
    calls.answer("verify_cache", replace(VERIFIED, ok=False, damaged=damage))
    err = run("cache", "verify", "cache").err
    assert "its manifest is damaged" in err and "run the same" not in err


def test_probe_marks_what_it_recommends(run: Run, calls: Calls) -> None:
    top_k = TargetCost(kind="top-k", ids=64, retained_mass=0.99, kl_renormalised=0.01, bytes_per_token=176, corpus_gb=2)
    sampled = TargetCost(kind="sampled", ids=4, bytes_per_token=16, corpus_gb=0.2)
    size = CorpusSize(
        kind="sampled",
        ids=4,
        bytes=20 * 10**12,
        shards=80_000,
        inodes=80_004,
        write_mb_per_s_per_node=1.5,
        read_mb_per_s_per_gpu=2.0,
        teacher_hours_per_process=30.0,
    )
    result = ProbeResult(
        sampled_sequences=8,
        sampled_tokens=900,
        entropy_nats=1.0,
        corpus_tokens=10**12,
        rows=(top_k, sampled),
        recommended=Recommendation(kind="sampled", ids=4, why="each position is seen once"),
        epochs=1,
        teacher_tokens_per_s=1000.0,
        sizing=(size,),
        processes_per_node=8,
        student_tokens_per_s=100_000,
    )
    calls.answer("probe_cache", result)
    lines = run("cache", "probe", "--teacher", "t").out.splitlines()
    assert [line for line in lines if "← recommended for 1 epoch" in line and "sampled" in line and "unbiased" in line]
    assert lines[-2] == "each position is seen once · measured on 900 tokens"
    assert lines[-1].endswith("Without the tail it would be 0.0100 with 64 ids")
    out = run("cache", "probe", "--teacher", "t", "--tokens", "1e12").out
    assert "1,000,000,000,000 tokens:" in out and "20.0 TB" in out and "1 d 6 h" in out and "8 processes" in out
    assert calls["probe_cache"][1]["tokens"] == 1e12
    assert run("cache", "probe", "--json").document["recommended"]["kind"] == "sampled"


def test_export_and_import_pass_everything_on(run: Run, calls: Calls) -> None:
    calls.answer("export_cache", [Path("p/a.safetensors"), Path("p/b.safetensors")])
    assert run("cache", "export", "c", "p").out == "2 files in p\n"
    assert run("cache", "export", "c", "p", "--json").document == {"files": ["p/a.safetensors", "p/b.safetensors"]}
    calls.answer("import_cache", Path("new"))
    done = run(
        "cache",
        "import",
        "rows",
        "new",
        "--tokenizer",
        "m",
        "--vocab-size",
        "9",
        "--no-tail",
        "--logprobs",
        "processed",
        "--complete-ends",
    )
    assert done.out == "cache: new\n"
    arguments, keywords = calls["import_cache"]
    assert arguments == (Path("rows"), Path("new"))
    del keywords["progress"]
    numbers = {"logprobs": "processed", "complete_ends": True}
    assert keywords == {
        "tokenizer": Path("m"),
        "vocab_size": 9,
        "top_k": 0,
        "estimate_tail": False,
        "packed_config": None,
        **numbers,
    }


def test_slurm_prints_the_script(run: Run) -> None:
    done = run("slurm", "distill", "--gpus", "2", "--", "--cache", "c", "--out", "runs/a")
    assert done.out.startswith("#!/bin/bash\n") and "-m thack distill --cache c --out runs/a" in done.out
    assert run("slurm", "distill", "--json", "--", "--out", "a").document["script"].startswith("#!/bin/bash")
    assert "--json" in run("slurm", "distill", "--", "--out", "a", "--json").out, "flags after -- are the job's"


def test_doctor_marks_what_is_wrong(run: Run, calls: Calls, tmp_path: Path) -> None:
    names = {finding["name"] for finding in run("doctor", "--json", "--out", str(tmp_path / "not" / "yet")).document}
    assert {"thack", "simd", "threads", "O_EXCL", "hard link", "fsync", "free space"} <= names
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    calls.answer("doctor", (Finding(name="write", value="no", state="wrong", advice="choose another `out`"),))
    code, out, err = run("doctor")
    assert code == 1 and "✗" in out and "choose another --out" in out and "not ready: write" in err


def test_doctor_of_models_says_what_to_type(run: Run, calls: Calls) -> None:
    lines = (
        Finding(name="vocabulary", value="the same 7 ids"),
        Finding(name="ends", value="</s> and <|im_end|>", state="wrong", advice="say which: `data.end = <|im_end|>`"),
    )
    calls.answer("preflight", Preflight(tokenizer_ids=7, findings=lines))
    code, out, err = run("doctor", "--teacher", "t", "--student", "s", "--data", "d.jsonl", "--set", "data.end=x")
    (given,) = calls["preflight"][0]
    assert (given.teacher, given.student, given.data.path, given.data.end) == ("t", "s", "d.jsonl", "x")
    assert code == 1 and "not ready: ends" in err
    assert "✓  vocabulary" in out and "→ say which: --set 'data.end=<|im_end|>'" in out
    done = run("doctor", "--teacher", "t", "--data", "d.jsonl", "--json")
    assert done.code == 1 and done.err == ""
    document = json.loads(done.out)
    assert document["tokenizer_ids"] == 7 and [line["state"] for line in document["findings"]] == ["ok", "wrong"]


def test_the_demo_shows_a_row_per_student(run: Run, calls: Calls) -> None:
    arms = (
        DemoRun(source="offline", seed=0, path=Path("r/a"), verdict=HACKING, seconds=3.0),
        DemoRun(source="online-teacher", seed=0, path=Path("r/b"), verdict=HEALTHY, seconds=3.0),
    )
    calls.answer("demo", DemoResult(runs=arms, report=Path("r/report.html"), seconds=61.2))
    out = run("demo", "--out", "r").out
    assert "1.900, 1.100 @ 79, 1.200 (+9.1 %)" in out and "0.700 → 0.600 (-10.0 %)" in out and "healthy" in out
    assert "61 s · report: r/report.html" in out
    document = run("demo", "--json").document
    assert [one["arm"] for one in document["runs"]] == ["offline", "online-teacher"]
    assert document["runs"][0]["name"] == "hacking" and document["report"] == "r/report.html"
    assert calls["demo"][0] == (Path("runs/demo"),)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def forecast(out: Path) -> Forecast:
    return api.forecast(api.recipe("quick", sets=["seeds=[0]"]), out)


def grid(forecast: Forecast, *outcomes: dict[str, Any]) -> GridResult:
    found = tuple(CellOutcome(planned=p, **o) for p, o in zip(forecast.planned, outcomes, strict=True))
    return GridResult(settings=ExperimentSettings(), outcomes=found, seconds=5.0)


def test_a_grid_is_reported_and_its_failures_are_exit_code_1(run: Run, calls: Calls, forecast: Forecast) -> None:
    calls.answer("experiment", grid(forecast, {"verdict": HACKING}, {"error": DataError("no data")}, {}))
    calls.answer("report", Path("g/report.html"))
    code, out, err = run("experiment", "quick", "--out", "g")
    assert code == 1 and "1.100 → 1.200 (+9.1 %)" in out and "failed" in out and "missing" in out
    assert "5 s · report: g/report.html" in out
    assert "1 of 3 cells failed" in err and "no data" in err and "run the same command again" in err
    calls.answer("experiment", grid(forecast, {"verdict": HEALTHY}, {"verdict": HEALTHY}, {}))
    document = run("experiment", "quick", "--json").document
    assert [one["state"] for one in document["runs"]] == ["finished", "finished", "missing"]
    assert document["report"] == "g/report.html" and document["runs"][0]["name"] == "healthy"


def test_one_cell_of_an_array_shows_itself_and_writes_no_report(run: Run, calls: Calls, forecast: Forecast) -> None:
    calls.answer("experiment", grid(forecast, {}, {"verdict": HACKING}, {}))
    out = run("experiment", "quick", "--cell", "1").out
    assert len(out.splitlines()) == 2 and "report" not in out and "report" not in calls
    (_, where), keywords = calls["experiment"]
    assert where == Path("runs/quick") and keywords["cell"] == 1


def test_a_dry_run_prices_the_grid_and_an_array_says_what_to_submit(
    run: Run, calls: Calls, forecast: Forecast, out: Path
) -> None:
    calls.answer("forecast", forecast)
    shown = run("experiment", "quick", "--dry-run").out
    assert "3 cells · about" in shown and "oracle" in shown and "hours of one thread" in shown
    typed = ["--seeds", "1", "--set", "distill.epochs=3", "--out", str(out)]
    document = run("experiment", "quick", *typed, "--array", "--json").document
    again = f"quick --out {out} --seeds 1 --set distill.epochs=3"
    assert f"thack slurm experiment --array 3 -- {again} --cell {{task}} > grid.sbatch" in document["submit"][0]
    assert document["submit"][1].startswith(f"thack experiment {again}")
    assert json.loads(Path(document["manifest"]).read_text())["recipe"] == "quick"


def test_a_failed_command_prints_no_result(run: Run, calls: Calls) -> None:
    calls.answer("report", ThackError("no run there"))
    done = run("report", "a")
    assert (done.code, done.out) == (1, "") and done.err == "error: no run there\n"


def test_options_before_and_after_the_double_dash_are_kept_apart(run: Run) -> None:
    script = run("slurm", "sft", "--nodes", "2", "--tasks", "4", "--", "--out", "a", "--epochs", "3").out
    assert "#SBATCH --nodes=2" in script and "--epochs 3" in script
    assert run("slurm", "sft", "--nodes", "2").code == 2, "without arguments there is no output directory"


def test_a_report_of_several_runs_goes_where_it_was_asked(run: Run, calls: Calls) -> None:
    calls.answer("report", Path("x.html"))
    assert run("report", "a", "b", "--out", "x.html", "--json").document == {"out": "x.html"}
    assert calls["report"] == (([Path("a"), Path("b")], Path("x.html")), {})


@pytest.mark.parametrize("command", ["sft", "generate", "cache-logits", "distill", "evaluate", "demo"])
def test_quiet_passes_a_silent_progress(command: str, run: Run, calls: Calls) -> None:
    name = command.replace("-", "_")
    calls.answer(name, ThackError("far enough"))
    run(command, "--quiet")
    assert calls[name][1]["progress"] is SILENT
    run(command)
    assert isinstance(calls[name][1]["progress"], LineProgress)
