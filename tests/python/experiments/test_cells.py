"""From axes to cells: which combinations mean the same run, what is refused, what an arm is called."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.config import to_toml
from thack.config.experiment import MANY_EPOCHS, SINGLE_PASS, Axes, ExperimentSettings
from thack.errors import UsageError
from thack.experiments.cells import base_arm, cells, name_of, product
from thack.experiments.plan import plan
from thack.experiments.recipe import RECIPES, load_recipe

BASE = ExperimentSettings()


def test_the_figures_share_cells() -> None:
    settings = replace(BASE, figures=("F4", "F5", "F6", "F7"), seeds=(0, 1, 2))
    found = cells(settings)
    assert len(found) == 3 * 8  # offline, two online; prompts ÷2, ÷5; 2, 3, 5 generations
    assert found[0].figures == ("F4", "F5", "F6", "F7")
    assert len({(cell.arm, cell.seed) for cell in found}) == len(found)


def test_a_fraction_of_nothing_is_offline_and_of_everything_online() -> None:
    arms = product(BASE, Axes(fraction_online=(0.0, 0.1, 1.0)))
    assert [arm.source for arm in arms] == ["offline", "mixture", "online-teacher"]
    assert arms[0] == base_arm(BASE)


def test_an_online_arm_has_no_budget_and_no_cache() -> None:
    arms = product(BASE, Axes(source=("online-teacher",), budget=(1, 5), target=("dense", "live", "top-k:4")))
    assert [arm.target for arm in arms] == ["live", "live/top-k:4"]


def test_the_rank_of_an_adapter_is_an_axis_and_all_figures_leave_it_out() -> None:
    arms = product(BASE, Axes(lora_rank=(0, 8)))
    assert arms[0] == base_arm(BASE) and name_of(arms[1], arms[0]) == "LoRA of rank 8"
    trained = load_recipe("laptop", ["distill.lora.rank=4", "figures=['lora']", "seeds=[0]"])
    assert [cell.arm.lora_rank for cell in cells(trained)] == [0, 2, 8, 32]
    assert base_arm(trained).lora_rank == 4
    assert name_of(cells(trained)[0].arm, base_arm(trained)) == "all weights"
    everything = cells(load_recipe("laptop", ["figures=['all']", "seeds=[0]"]))
    assert {cell.arm.lora_rank for cell in everything} == {0}, "they need no peft"


def test_a_product_of_ones_own_runs_beside_the_figures() -> None:
    settings = load_recipe("laptop", ["axes.fraction_online=[0,0.05,0.1]", "seeds=[0]"])
    own = [cell for cell in cells(settings) if "axes" in cell.figures]
    assert [cell.arm.fraction_online for cell in own] == [0, 0.05, 0.1]
    assert any("F7" in cell.figures for cell in cells(settings))


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["axes.budget=[0]"], "axes.budget = [0]: must be a list, each 1 or more"),
        (["axes.diversity=[0]"], "axes.diversity = [0]: must be a list, each 1 or more"),
        (["axes.fraction_online=[1.5]"], "axes.fraction_online = [1.5]: must be a list, each between 0 and 1"),
        (["axes.target=['top-k']"], "top-k:64"),
        (["arms=['offline', 'mixture']"], "needs its share"),
        (["figures=['F9']"], 'figures = ["F9"]: must be a list, each all | F4'),
        (["figures=['axes']"], "needs an axis"),
        (["seeds=[]"], "seeds is empty"),
        (["axes.tokenizer=['words']"], "tokenizer 'words' is neither a number of ids from 258 on nor"),
        (["axes.tokenizer=['code:99']"], "tokenizer 'code:99' is neither"),
        (["axes.cross_tokenizer=['alm']"], "needs students with another tokenizer"),
        (["axes.tokenizer=['300']", "axes.cross_tokenizer=['refuse']"], "refuse trains nothing"),
        (
            ["axes.tokenizer=['300']", "axes.cross_tokenizer=['uld']", "axes.target=['sampled:4']"],
            "cross_tokenizer = uld is not defined on sampled:4",
        ),
        (["axes.tokenizer=['300']", "student.model='small'"], "student.model has a tokenizer of its own"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(sets: list[str], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        cells(load_recipe("laptop", sets))
    assert told in str(raised.value)


@pytest.mark.parametrize(
    "own",
    [
        *("seed=5", "source.kind='online-teacher'", "data.limit=3", "loss.divergence='jsd'"),
        *("judge='models/judge'", "human_references=true"),  # the evaluation set has responses of the oracle alone
    ],
)
def test_a_setting_that_every_cell_would_overwrite_is_refused(own: str, tmp_path: Path) -> None:
    laptop = load_recipe("laptop", [f"distill.{own}"])
    if own.startswith("loss"):
        assert plan(laptop, tmp_path)
    else:
        with pytest.raises(UsageError, match=r"has no effect in a grid"):
            plan(laptop, tmp_path)


def test_a_seed_that_is_named_twice_is_one() -> None:
    assert [cell.seed for cell in cells(load_recipe("laptop", ["seeds=[1, 1, 0]", "figures=['F4']"]))] == [1, 0]


def test_the_study_of_targets_has_distinct_arms() -> None:
    found = cells(replace(BASE, figures=("target", "once")))
    assert len(found) == len(MANY_EPOCHS) + len(SINGLE_PASS)
    base = base_arm(BASE)
    assert len({name_of(cell.arm, base) for cell in found}) == len(found)


def test_the_study_of_tokenizers_has_every_loss_on_the_targets_that_it_knows() -> None:
    found = product_of_tokenizers("groups.tokenizers.tokenizer=['300']", "groups.tokenizers.learning_rate=[0.002]")
    assert found == [
        *("sft, tokenizer 300, rate 0.002", "tokenizer 300, alm, rate 0.002", "tokenizer 300, uld, rate 0.002"),
        *("tokenizer 300, uld-common, rate 0.002", "tokenizer 300, gold, rate 0.002"),
        *(f"tokenizer 300, {loss}, rate 0.002" for loss in ("cell", "cell-next")),
        *(f"tokenizer 300, {loss}, rate 0.002, {k} sampled ids" for k in (16, 4) for loss in ("cell", "cell-next")),
        *("sft, rate 0.002", "rate 0.002", "rate 0.002, 16 sampled ids", "rate 0.002, 4 sampled ids"),
    ]
    few = ["groups.tokenizers.cross_tokenizer=['gold']", "groups.tokenizers.target=['dense']"]
    assert len(product_of_tokenizers("groups.tokenizers.learning_rate=[]", *few)) == 2 + 2 + 2


def product_of_tokenizers(*sets: str) -> list[str]:
    chosen = load_recipe("tokenizers", ["seeds=[0]", *sets])
    return [name_of(cell.arm, base_arm(chosen)) for cell in cells(chosen)]


def test_a_loss_between_two_tokenizers_means_nothing_with_one() -> None:
    arms = product(BASE, Axes(tokenizer=("300",), cross_tokenizer=("auto", "cell"), method=("distill", "sft")))
    assert [(arm.cross_tokenizer, arm.method) for arm in arms] == [("cell", "distill"), ("auto", "sft")]
    rate = BASE.distill.optimizer.learning_rate
    assert [arm.learning_rate for arm in product(BASE, Axes(learning_rate=(rate, 0.5)))] == [0.0, 0.5]


def test_names_say_what_is_special() -> None:
    base = base_arm(BASE)
    assert name_of(base, base) == "offline"
    assert name_of(replace(base, diversity=5), base) == "prompts ÷5"
    assert name_of(replace(base, source="online-teacher", target="live", loss="jsd"), base) == "online-teacher, JSD"
    assert name_of(replace(base, task="signature"), base) == "signature, offline"
    assert name_of(replace(base, source="mixture", fraction_online=0.07, target="live"), base) == "7 % online"
    assert name_of(replace(base, target="sampled:16"), base) == "16 sampled ids"
    assert name_of(replace(base, target="live/sampled:16"), base) == "16 sampled ids, without a cache"
    assert name_of(replace(base, target="live"), base) == "without a cache"
    assert name_of(base, replace(base, target="live")) == "from a cache"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_printed_changed_and_read_again(name: str, tmp_path: Path) -> None:
    settings = load_recipe(name)
    (tmp_path / "mine.toml").write_text(to_toml(settings, comments=True))
    assert load_recipe(str(tmp_path / "mine.toml")) == settings


axis = st.lists(st.integers(1, 4), unique=True, max_size=3).map(tuple)
FRACTIONS = [0.0, 0.07, 0.1, 0.1000001, 1.0]
TARGETS = [
    *("dense", "live", "sampled:16", "live/sampled:16", "live/sampled:16+redraw", "live/renormalised:16"),
    *("live/mixed:16+prior", "live/mixed:16+prior+4", "live/mixed:16+prior=0.3+4", "top-k:4", "live/top-k:4"),
]


@settings(deadline=None)
@given(
    diversity=axis,
    budget=axis,
    fraction=st.lists(st.sampled_from(FRACTIONS), unique=True, max_size=3).map(tuple),
    target=st.lists(st.sampled_from(TARGETS), unique=True, max_size=4).map(tuple),
    rate=st.lists(st.sampled_from([1e-5, 0.002, 0.0020000001]), unique=True, max_size=2).map(tuple),
    plain=st.sampled_from(TARGETS),
)
def test_every_arm_occurs_once_and_has_its_own_name(
    diversity: tuple[int, ...],
    budget: tuple[int, ...],
    fraction: tuple[float, ...],
    target: tuple[str, ...],
    rate: tuple[float, ...],
    plain: str,
) -> None:
    chosen = replace(BASE, target=plain)
    axes = Axes(diversity=diversity, budget=budget, fraction_online=fraction, target=target, learning_rate=rate)
    arms = product(chosen, axes)
    names = {name_of(arm, base_arm(chosen)) for arm in arms}
    assert len(set(arms)) == len(arms) == len(names)
    full = math.prod(max(1, len(values)) for values in (diversity, budget, fraction, target, rate))
    assert 1 <= len(arms) <= full


def test_fewer_prompts_are_an_axis_and_all_of_them_are_the_plain_run() -> None:
    plain, fewer = product(BASE, Axes(num_prompts=(BASE.num_distill_prompts, 100)))
    assert plain == base_arm(BASE) and fewer.num_prompts == 100
    assert name_of(fewer, base_arm(BASE)) == "100 prompts"
    with pytest.raises(UsageError, match="more than num_distill_prompts"):
        product(BASE, Axes(num_prompts=(BASE.num_distill_prompts + 1,)))


def test_methods_are_an_axis_each_with_the_responses_that_it_needs() -> None:
    arms = product(BASE, Axes(method=("distill", "sft", "hard-soft", "policy-gradient", "guard")))
    assert arms[0] == base_arm(BASE)
    assert [arm.source for arm in arms] == [*["offline"] * 3, "online-student", "offline"]
    names = [name_of(arm, base_arm(BASE)) for arm in arms[1:]]
    assert names == ["sft", "hard soft", "online-student, policy gradient", "guard"]
    for method in ("guard", "offline-policy-gradient"):
        with pytest.raises(UsageError, match=r"leave axes\.source out"):
            product(BASE, Axes(method=(method,), source=("online-teacher",)))


def test_an_offline_policy_gradient_keeps_one_number_of_its_teacher_and_is_offline() -> None:
    arms = product(BASE, Axes(method=("offline-policy-gradient",), target=("dense", "sampled:4"), budget=(1, 5)))
    assert [(arm.source, arm.target, arm.budget) for arm in arms] == [("offline", "top-k:1", n) for n in (1, 5)]
    names = [name_of(arm, base_arm(BASE)) for arm in arms]
    assert names == ["offline policy gradient", "5 generations, offline policy gradient"]
    with pytest.raises(UsageError, match=r"leave axes\.fraction_online out"):
        product(BASE, Axes(method=("offline-policy-gradient",), fraction_online=(0.5,)))


def test_the_figure_of_teacher_consistency_has_three_methods_from_two_starts() -> None:
    found = cells(replace(BASE, figures=("consistency",)))
    assert [name_of(cell.arm, base_arm(BASE)) for cell in found] == [
        *("offline", "fine-tuned on the teacher"),
        *("online-student, policy gradient", "online-student, policy gradient, fine-tuned on the teacher"),
        *("offline policy gradient", "offline policy gradient, fine-tuned on the teacher"),
    ]
