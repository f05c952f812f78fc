"""Files of rows: JSON lines, a JSON list, Parquet and Arrow hold the same records."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thack.config import DataSettings
from thack.data import read_records
from thack.data.readers import each_record
from thack.data.records import Record
from thack.data.rows import BadLine, read_rows
from thack.data.store import read_manifest
from thack.errors import DataError

from .small import ANSWER, USER, write_rows

ROWS: list[dict[str, Any]] = [
    {
        "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}],
        "id": "a",
    },
    {"messages": [USER, ANSWER], "id": "b"},
    {"prompt": "x", "response": "y", "id": "c"},
]


def write(path: Path, kind: str) -> Path:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({key: [row.get(key) for row in ROWS] for key in ("messages", "prompt", "response", "id")})
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
        return path
    with (arrow.ipc.new_file if kind == "file" else arrow.ipc.new_stream)(path, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.parametrize(("name", "kind"), [("d.parquet", "parquet"), ("d.arrow", "file"), ("d.arrow", "stream")])
def test_columns_hold_what_lines_hold(name: str, kind: str, tmp_path: Path) -> None:
    """A struct has every key of its column: the ones without a value were not in the row."""
    pytest.importorskip("pyarrow")
    expected = read_records(write_rows(tmp_path / "d.jsonl", *ROWS))
    assert read_records(write(tmp_path / name, kind)) == expected


def test_a_directory_that_datasets_wrote(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path / "data-00000-of-00001.arrow", "stream")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert [record.prompt_id for record in read_records(tmp_path)] == ["a", "b", "c"]


def test_what_datasets_cached_beside_a_data_set_is_no_part_of_it(tmp_path: Path) -> None:
    """`map` and `filter` write into the directory that a data set was loaded from."""
    datasets = pytest.importorskip("datasets", reason="SKIPPED: needs the package datasets")
    datasets.disable_progress_bars()
    rows = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(4)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path, num_shards=4)
    datasets.Dataset.from_list(rows[:3]).save_to_disk(tmp_path, num_shards=2)  # over more shards, which stay
    saved = datasets.load_from_disk(tmp_path)
    saved.map(lambda row: {"response": "other"})
    saved.filter(lambda row: row["prompt"] != "p0")
    assert len(list(tmp_path.glob("*.arrow"))) == 8
    assert [row for _, row in read_rows(tmp_path)] == list(saved)
    assert read_manifest(tmp_path) is None
    (tmp_path / "state.json").unlink()
    assert len(list(read_rows(tmp_path))) == 7


def test_what_datasets_keeps_as_json_is_read_as_it_was(tmp_path: Path) -> None:
    """Turns and tools with different keys, which no struct of a column has."""
    datasets = pytest.importorskip("datasets", reason="SKIPPED: needs the package datasets")
    datasets.disable_progress_bars()
    rows = [
        {
            "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [_call(argument, value)]}],
            "tools": [{"function": {"name": "f", "parameters": {"properties": {argument: {"type": "string"}}}}}],
        }
        for argument, value in (("x", 1), ("y", "a"))
    ]
    given = datasets.load_dataset(
        "json",
        data_files=str(write_rows(tmp_path / "d.jsonl", *rows)),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert "Json" in repr(given.features)
    given.save_to_disk(tmp_path / "saved")
    given.to_parquet(tmp_path / "d.parquet")
    for path in (tmp_path / "saved", tmp_path / "d.parquet"):
        assert [row for _, row in read_rows(path)] == rows == list(given)
        assert read_records(path) == read_records(tmp_path / "d.jsonl")


def _call(argument: str, value: object) -> dict[str, Any]:
    return {"function": {"name": "f", "arguments": {argument: value}}}


@pytest.mark.parametrize("state", [{}, [], {"_data_files": [{"filename": "../data.arrow"}]}, {"_data_files": [3]}])
def test_a_damaged_state_of_a_data_set_is_named(state: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path / "data.arrow", "stream")
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"state\.json does not name the files beside it"):
        list(read_rows(tmp_path))


def test_of_several_data_sets_one_has_to_be_given(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="SKIPPED: needs the package datasets")
    datasets.disable_progress_bars()
    one = datasets.Dataset.from_list([{"prompt": "a"}])
    datasets.DatasetDict(train=one, test=one).save_to_disk(tmp_path)
    for read in (read_manifest, lambda path: list(read_rows(path))):
        with pytest.raises(DataError, match=r"holds several data sets[\s\S]*test[\s\S]*train[\s\S]*one of them"):
            read(tmp_path)
    assert [row for _, row in read_rows(tmp_path / "train")] == [{"prompt": "a"}]


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_bom_changes_nothing(name: str, indent: int | None, tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=indent) if name == "d.json" else "\n".join(map(json.dumps, ROWS))
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert [record.prompt_id for record in read_records(tmp_path / name)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("compress", "program"), [(gzip.compress, "zcat"), (lzma.compress, "xzcat"), (bz2.compress, "bzcat")]
)
@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.json", "d.csv"])
def test_a_compressed_file_says_how_to_unpack_it(compress: Any, program: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(compress(b'{"prompt": "a"}\n'))
    with pytest.raises(DataError, match=rf"{name} is compressed[\s\S]*<\({program} .*{name}\)"):
        list(read_rows(tmp_path / name))


def test_one_object_over_several_lines_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"data": ROWS}, indent=1))
    with pytest.raises(DataError, match=r"d\.json is one JSON object over several lines, not a list of records"):
        list(read_rows(tmp_path / "d.json"))


def test_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text("\n " + json.dumps(ROWS, indent=1))
    assert [record.prompt_id for record in read_records(path)] == ["a", "b", "c"]
    path.write_text(json.dumps([ROWS[0], 3]))
    with pytest.raises(DataError, match=r"d\.json: record 2: a record is an object"):
        read_records(path)
    path.write_text("[1,")
    with pytest.raises(DataError, match=r"d\.json: not JSON"):
        read_records(path)
    path.write_text(json.dumps(ROWS[2]) + "\n" + json.dumps(ROWS[1]))
    assert [record.prompt_id for record in read_records(path)] == ["c", "b"]


@pytest.mark.parametrize("name", ["d.parquet", "d.arrow"])
def test_what_is_no_such_file_says_so(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"nothing of the kind")
    kind = "a Parquet" if name == "d.parquet" else "an Arrow"
    with pytest.raises(DataError, match=f"not {kind} file, or damaged behind row 0"):
        list(read_rows(tmp_path / name))


def test_a_missing_file_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        list(read_rows(tmp_path / "none.jsonl"))
    assert caught.value.hint == "give a JSONL, JSON, CSV, TSV, Parquet or Arrow file of prompts"


def test_lines_that_are_no_json_name_their_place(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n\n\xff\n{"prompt"\n')
    places = [place for place, _ in read_rows(path)]
    reasons = [str(row) for _, row in read_rows(path)][1:]
    assert places == [f"{path}:1", f"{path}:3", f"{path}:4"]
    assert reasons[0] == "not UTF-8 (byte 0)" and reasons[1].startswith("not JSON (expecting")


def test_an_arrow_file_whose_offsets_lead_out_of_it_is_refused(tmp_path: Path) -> None:
    import pyarrow

    table = pyarrow.table({"prompt": [f"prompt {i}" for i in range(20)]})
    path = tmp_path / "rows.arrow"
    with pyarrow.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table)
    offsets = np.arange(0, 9, 8, dtype="<i4").tobytes()  # 0, 8: the first two
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, np.array([0, 1 << 30], "<i4").tobytes()))
    with pytest.raises(DataError, match="not an Arrow file, or damaged"):
        list(read_rows(path))


def test_a_line_beyond_the_bound_is_named_with_the_setting_and_skipped_by_request(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", {"prompt": "a"}, {"prompt": "b" * 300}, {"prompt": "c"})
    reason, hint = r"d\.jsonl:2: a line of more than 100 bytes", r"raise `data\.max_line_bytes`"
    with pytest.raises(DataError, match=rf"(?s){reason}.*{hint}"):
        list(each_record(DataSettings(path=str(path), max_line_bytes=100)))
    first, skipped, last = each_record(DataSettings(path=str(path), max_line_bytes=100, on_bad_line="skip"))
    assert isinstance(first, Record) and isinstance(last, Record) and isinstance(skipped, BadLine)
    assert (first.prompt, last.prompt) == ("a", "c") and "d.jsonl:2: a line of more than 100 bytes" in str(skipped)
    assert len(list(each_record(DataSettings(path=str(path), max_line_bytes=400)))) == 3


def test_a_line_beyond_the_bound_does_not_get_into_memory(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "long.jsonl", {"prompt": "x" * 20_000_000}, {"prompt": "c"})
    tracemalloc.start()
    found = list(each_record(DataSettings(path=str(path), max_line_bytes=1000, on_bad_line="skip")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 2 and isinstance(found[1], Record) and peak < 4_000_000
