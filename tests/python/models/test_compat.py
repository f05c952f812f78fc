"""docs/reference/models.md lists what `make compat` tries, and what it says of single models is so."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

import transformers

from .compat import DECODER, ENCODER_DECODER, PAGE, declared, listed, trial

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def test_the_page_lists_every_model_once() -> None:
    if f"transformers {transformers.__version__} " not in PAGE.read_text(encoding="utf-8"):
        pytest.skip(f"the page is of another version than {transformers.__version__}: make compat")
    found = listed()
    assert sorted(found) == sorted(declared()), "make compat"
    assert "Different" not in found.values(), "a number is not transformers' own"


@pytest.mark.parametrize(("name", "form"), [("gpt2", DECODER), ("t5", ENCODER_DECODER), ("xlnet", DECODER)])
def test_single_models_fare_as_the_page_says(name: str, form: str) -> None:
    found = trial(name, form)
    assert {"exact": "Exact", "refused": "Refused"}.get(found.state) == listed()[name, form], found
