"""Flags are settings: each sets its key, and wins over files and --set."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest

from thack.cli import (
    cache,
    cache_logits,
    data,
    demo,
    distill,
    doctor,
    evaluate,
    experiment,
    generate,
    merge,
    push,
    sft,
    slurm,
    verdict,
)
from thack.cli.command import Flag
from thack.config import (
    CacheSettings,
    DistillSettings,
    DoctorSettings,
    EvaluateSettings,
    ExperimentSettings,
    GenerateSettings,
    MergeSettings,
    PushSettings,
    SftSettings,
    ShowSettings,
    SlurmSettings,
    VerdictSettings,
    describe,
    from_dict,
)

from .conftest import Calls, Run

COMMANDS: dict[str, tuple[tuple[Flag, ...], type[Any]]] = {
    "data show": (data.FLAGS, ShowSettings),
    "sft": (sft.FLAGS, SftSettings),
    "merge": (merge.FLAGS, MergeSettings),
    "push": (push.FLAGS, PushSettings),
    "generate": (generate.FLAGS, GenerateSettings),
    "cache-logits": (cache_logits.FLAGS, CacheSettings),
    "cache probe": (cache.PROBE_FLAGS, CacheSettings),
    "distill": (distill.FLAGS, DistillSettings),
    "evaluate": (evaluate.FLAGS, EvaluateSettings),
    "experiment": (experiment.FLAGS, ExperimentSettings),
    "demo": (demo.FLAGS, ExperimentSettings),
    "slurm": (slurm.FLAGS, SlurmSettings),
    "doctor": (doctor.FLAGS, DoctorSettings),
    "verdict": (verdict.FLAGS, VerdictSettings),
}
ARGUMENTS = {"data show": ["chats.jsonl"], "experiment": ["demo"], "slurm": ["sft"], "verdict": ["runs/a"]}
FLAGS = [(name, flag, cls) for name, (flags, cls) in COMMANDS.items() for flag in flags]


def settings(run: Run, name: str, *arguments: str) -> Any:
    """What `--show-settings` prints, read back."""
    done = run(*name.split(), *ARGUMENTS.get(name, []), *arguments, "--show-settings")
    assert done.code == 0, done.err
    return from_dict(COMMANDS[name][1], tomllib.loads(done.out))


def at(instance: Any, key: str) -> Any:
    for part in key.split("."):
        instance = getattr(instance, part)
    return instance


def another(kind: Any, default: Any) -> tuple[str, Any]:
    """A text that a user may type, and the value it stands for: not the default."""
    if get_origin(kind) is Literal:
        word = next(choice for choice in get_args(kind) if choice != default)
        return word, word
    if get_origin(kind) is UnionType and str in get_args(kind):  # one text, or a list of them
        kind = str
    if get_origin(kind) is tuple:
        word, value = another(get_args(kind)[0], None)
        return word, (value,)
    typed = {int: ("7", 7), float: ("0.25", 0.25), str: ("some/text", "some/text"), Path: ("a/path", Path("a/path"))}
    return typed[kind]


_WITHOUT: dict[str, Any] = {}  # by command, of `settings` without a flag


@pytest.mark.parametrize(("name", "flag", "cls"), FLAGS, ids=[f"{name} {flag.flag}" for name, flag, _ in FLAGS])
def test_a_flag_sets_its_key_and_nothing_else(name: str, flag: Flag, cls: type[Any], run: Run) -> None:
    setting = {one.key: one for one in describe(cls)}[flag.key]
    before = _WITHOUT[name] if name in _WITHOUT else _WITHOUT.setdefault(name, settings(run, name))
    expected: Any
    if setting.field.type is bool:
        after, expected = settings(run, name, flag.flag), True
    elif flag.parse is not None:
        after, expected = settings(run, name, flag.flag, "5,6"), (5, 6)
    else:
        is_device = flag.key == "device"  # a text, but not any
        text, expected = ("cpu", "cpu") if is_device else another(setting.field.type, at(before, flag.key))
        after = settings(run, name, flag.flag, text)
    assert at(after, flag.key) == expected
    changed = {one.key for one in describe(cls) if at(before, one.key) != at(after, one.key)}
    assert changed <= {flag.key, *flag.implies}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_flags_settings_are_the_defaults(name: str, run: Run) -> None:
    if name not in ("experiment", "demo"):  # those begin with a recipe
        assert settings(run, name) == COMMANDS[name][1]()


@pytest.mark.parametrize("name", COMMANDS)
def test_no_two_flags_have_one_name_or_one_key(name: str) -> None:
    flags = COMMANDS[name][0]
    assert len({flag.flag for flag in flags}) == len({flag.key for flag in flags}) == len(flags)


def test_flags_win_over_set_and_set_over_files(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("top_k = 2\nepochs = 3\nseed = 5\n")
    found = settings(
        run, "cache-logits", "--config", str(file), "--set", "top_k=4", "--set", "epochs=9", "--top-k", "8"
    )
    assert (found.top_k, found.epochs, found.seed) == (8, 9, 5)


def test_a_flag_of_a_list_of_texts_is_repeated(run: Run) -> None:
    assert settings(run, "distill", "--cache", "a", "--set", "cache_weights=[1]").cache == "a"
    found = settings(run, "distill", "--cache", "a", "--cache", "b,c", "--cache-weight", "0.7,0.3")
    assert found.cache == ("a", "b,c") and found.cache_weights == (0.7, 0.3)
    assert settings(run, "distill", "--set", 'cache=["a", "b"]').cache == ("a", "b")
    assert settings(run, "distill", "--set", "cache=1e3").cache == "1e3"


def test_flags_imply_their_kind_unless_it_is_given(run: Run, tmp_path: Path) -> None:
    assert settings(run, "cache-logits", "--sampled", "4").kind == "sampled"
    assert settings(run, "cache-logits", "--sampled", "4", "--kind", "dense").kind == "dense"
    for given in (["--kind", "top-k"], ["--set", "kind=top-k"]):
        assert settings(run, "cache-logits", "--sampled", "4", "--top-k", "8", *given).kind == "top-k"
    code, _, err = run("cache-logits", "--sampled", "4", "--top-k", "8", "--show-settings")
    assert code == 2
    assert "--top-k asks for kind = top-k, --sampled for sampled: give one of them, or --kind too" in err
    (tmp_path / "a.toml").write_text('kind = "dense"\n')
    assert settings(run, "cache-logits", "--top-k", "4", "--config", str(tmp_path / "a.toml")).kind == "dense"


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ("--policy k1", (0, 0, 1)),
        ("--policy k1 --set loss.weight=0.3 --set loss.policy.weight=0.1", (0.3, 0, 0.1)),
        ("--mix entropy", (1, 1, 0)),
        ("--mix entropy --set loss.ce_weight=0.5", (1, 0.5, 0)),
        ("--mix sum", (1, 0, 0)),
        ("--divergence jsd --set loss.weight=0.5", (0.5, 0, 0)),
        ("--divergence jsd --policy k1 --set loss.weight=0.5", (0.5, 0, 1)),
    ],
)
def test_flags_of_a_loss_imply_weights_that_are_not_given(arguments: str, weights: tuple[float, ...], run: Run) -> None:
    loss = settings(run, "distill", *arguments.split()).loss
    assert (loss.weight, loss.ce_weight, loss.policy.weight) == weights


def test_a_divergence_that_a_policy_gradient_would_leave_out_is_refused(run: Run) -> None:
    code, _, err = run("distill", "--divergence", "jsd", "--policy", "k1", "--show-settings")
    assert code == 2 and "--divergence asks for loss.weight = 1.0, --policy for 0.0: give one of them, or" in err


def test_a_number_of_evaluations_lifts_the_limit_on_their_cost_unless_one_is_given(run: Run) -> None:
    for arguments, share in (([], 1.0), (["--set", "evaluation.max_share=0.1"], 0.1)):
        assert settings(run, "distill", "--eval-count", "20", *arguments).evaluation.max_share == share


def test_a_recipe_is_the_base_of_an_experiment(run: Run) -> None:
    quick = settings(run, "demo", "--quick")
    assert quick.num_sft_prompts < settings(run, "demo").num_sft_prompts
    assert settings(run, "demo", "--seeds", "2-4").seeds == (2, 3, 4)
    assert settings(run, "experiment", "--seeds", "2").seeds == (0, 1)
    assert settings(run, "experiment", "--set", "distill.epochs=3").distill.epochs == 3


def test_settings_reach_the_api(run: Run, calls: Calls, tmp_path: Path) -> None:
    calls.answer("sft", tmp_path)
    assert run("sft", "--data", "pairs.jsonl", "--set", "memory.compile=true", "--out", str(tmp_path)).code == 0
    (given,), keywords = calls["sft"]
    assert (given.data.path, given.memory.compile, given.out) == ("pairs.jsonl", True, tmp_path)
    assert set(keywords) == {"progress"}


def test_show_settings_prints_help_beside_each_key(run: Run, calls: Calls) -> None:
    done = run("distill", "--student", "s", "--set", "loss.beta=0.1", "--show-settings")
    assert "# jsd: M = " in done.out
    assert calls == {}, "nothing was started"


@pytest.mark.parametrize("command", ["cache-logits", "generate"])
def test_a_mistyped_out_leaves_what_is_there_alone(command: str, tmp_path: Path, run: Run) -> None:
    """A finished run is not failed because a cache cannot lie in it."""
    role = {"cache-logits": "--teacher", "generate": "--model"}[command]
    (tmp_path / "thack.json").write_text('{"kind": "run", "format": 1}')
    (tmp_path / "STATUS.json").write_text('{"state": "finished", "step": 7}')
    code, _, err = run(command, role, "t", "--data", "d", "--out", str(tmp_path))
    assert (code, "is a run, not a" in err) == (2, True)
    assert (tmp_path / "STATUS.json").read_text() == '{"state": "finished", "step": 7}'
    (tmp_path / "file").touch()
    code, _, err = run(command, role, "t", "--data", "d", "--out", str(tmp_path / "file"))
    assert (code, "is a file" in err) == (2, True)
