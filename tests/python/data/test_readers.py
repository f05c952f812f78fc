"""Files of prompts as people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thack.data import read_records
from thack.data.readers import read_data
from thack.errors import DataError


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "f", "sample": "a"}, "`sample` is not a whole number"),
        ({"prompt": "f", "sample": -1}, "`sample` is not a whole number"),
        ({"prompt": "f", "sample": 1 << 32}, "`sample` is not a whole number"),
        ({"prompt": "f \ud800"}, r"`prompt` is not text: it holds \\ud800"),
        ({"prompt": "f", "response": "\udfff"}, "`response` is not text"),
        ({"prompt": "f", "id": "\ud800"}, "`id` is not text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "`messages` is not text"),
    ],
)
def test_what_no_model_can_read_names_its_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "g", "sample": None}, row)
    with pytest.raises(DataError, match=rf"p\.jsonl:2: {said}"):
        read_records(path)
    found = read_data(path, "skip")
    assert [r.sample for r in found.records] == [0]
    assert len(found.skipped) == 1


@pytest.mark.parametrize("line", ["[" * 100_000, '{"prompt": ' + "9" * 5000 + "}"])
def test_json_that_python_gives_up_on_is_a_bad_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"p\.jsonl:1: not JSON that can be read"):
        read_records(tmp_path / "p.jsonl")


def test_damage_in_the_middle_of_a_parquet_file_names_its_place(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "p.parquet"
    prompts = [f"hello {i}" for i in range(2000)]
    parquet.write_table(arrow.table({"prompt": prompts}), path, row_group_size=1000)
    data = bytearray(path.read_bytes())
    first = parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data[first + 40 : first + 400] = bytes(360)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"p\.parquet: .*damaged behind row 1,000"):
        read_records(path)


def test_an_id_names_one_prompt(tmp_path: Path) -> None:
    """Two prompts under one id would be taken for samples of one, and a response for that of the other."""
    path = write(tmp_path / "p.jsonl", {"prompt": "f", "id": 1}, {"prompt": "f", "id": 1}, {"prompt": "g", "id": 1})
    with pytest.raises(DataError, match=r"p\.jsonl:3: the id '1' is another prompt's"):
        read_records(path)
    assert [r.prompt for r in read_records(path, "skip")] == ["f", "f"]
