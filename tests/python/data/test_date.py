"""The date in a chat template: of the settings, or of the first use, recorded."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from thack.config import DataSettings
from thack.data.date import NAME, follow_settings, with_settings
from thack.data.encode import encode_prompts
from thack.data.formats import to_record
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, UsageError

from .small import CHATML, USER, write_tokenizer

DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML


class Model:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer


def beginning(tokenizer: Tokenizer) -> str:
    (ids,) = encode_prompts([to_record({"messages": [USER]})], tokenizer)
    return tokenizer.decode(ids[:11])


def test_a_given_date_is_used_and_not_recorded(tmp_path: Path) -> None:
    model = Model(Tokenizer.load(write_tokenizer(tmp_path / "t", template=DATED)))
    follow_settings(model, DataSettings(date="2024-07-26"), tmp_path / "out")
    assert beginning(model.tokenizer) == "26 Jul 2024"
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match=r"data\.date = 'July' is no date"):
        follow_settings(model, DataSettings(date="July"), tmp_path / "out")


def test_the_first_use_fixes_it(tmp_path: Path) -> None:
    """A job that is resumed on another day renders the same prompts."""
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "t", template=DATED))
    first = with_settings(tokenizer, DataSettings(), tmp_path / "out")
    recorded = json.loads((tmp_path / "out" / NAME).read_text())
    assert recorded["date"] == date.today().isoformat()
    assert beginning(first) == date.today().strftime("%d %b %Y")
    (tmp_path / "out" / NAME).write_text(json.dumps(recorded | {"date": "2020-02-29"}))
    assert beginning(with_settings(tokenizer, DataSettings(), tmp_path / "out")) == "29 Feb 2020"


@pytest.mark.parametrize("content", ["[]", "{}", '{"date": 3}', '{"date": "soon"}'])
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "t", template=DATED))
    (tmp_path / NAME).write_text(content)
    with pytest.raises(DataError, match=r"date\.json holds no date"):
        with_settings(tokenizer, DataSettings(), tmp_path)


def test_what_asks_for_no_date_records_none(tmp_path: Path) -> None:
    for template in (None, CHATML):
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "t", template=template))
        assert with_settings(tokenizer, DataSettings(), tmp_path / "out") is tokenizer
    assert not (tmp_path / "out").exists()


def test_a_template_finds_it_defined_as_in_transformers(tmp_path: Path) -> None:
    """Llama 3 falls back to 26 Jul 2024 where it is not."""
    template = "{{ 'yes' if strftime_now is defined else 'no' }}" + CHATML
    tokenizer = with_settings(Tokenizer.load(write_tokenizer(tmp_path, template=template)), DataSettings())
    assert beginning(tokenizer).startswith("yes")


def test_a_capture_renders_the_recorded_date_and_is_resumed_with_it(tmp_path: Path) -> None:
    import thack
    from thack.config import ArchitectureSettings
    from thack.models.load import new_decoder

    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "t", template=DATED))
    new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, seed=0).save(tmp_path / "m")
    (tmp_path / "d.jsonl").write_text(json.dumps({"messages": [USER, {"role": "assistant", "content": "ok"}]}))
    settings: dict[str, Any] = {"teacher": str(tmp_path / "m"), "top_k": 4, "device": "cpu", "out": tmp_path / "c"}
    data = DataSettings(path=str(tmp_path / "d.jsonl"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thack.json").write_text(json.dumps({"kind": "cache"}))
    (tmp_path / "c" / NAME).write_text(json.dumps({"schema": 1, "date": "2021-03-04"}))
    for _ in range(2):
        cache = thack.Cache.open(thack.cache_logits(thack.CacheSettings(data=data, **settings)))
        assert tokenizer.decode(cache.sequences(0).prompt_ids[:11]) == "04 Mar 2021"
