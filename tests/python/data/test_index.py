"""The index of a data set: any part of it is read alone, and equals that part of the whole."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thack import files
from thack.config import DataSettings
from thack.data import columnar, index, selection, stream
from thack.data.index import IndexedSequences, index_data
from thack.data.prepare import prepare
from thack.data.sequence import TokenSequence, data_fingerprint
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError

TEXT = "def read(path): read the file at path and return its lines"
FORMATS = ["jsonl", "json", "csv", "parquet", "arrow", "stream"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 3, 280)


def content(count: int = 40) -> list[dict[str, Any]]:
    """Pairs, some of one prompt, some too long, some without a response; and texts that become several pieces."""
    found: list[dict[str, Any]] = []
    for i in range(count):
        if i % 7 == 3:
            found.append({"text": f"{i} {TEXT} " * 3})
        elif i % 11 == 5:
            found.append({"prompt": f"{TEXT} {i} " * 9, "response": "too long"})
        else:
            found.append({"prompt": f"read {i // 2}", "response": f"file {i}" if i % 5 else None})
    return found


def write(path: Path, kind: str, found: list[dict[str, Any]]) -> Path:
    path = path / f"d.{'arrow' if kind == 'stream' else kind}"
    if kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in found) + "\n", encoding="utf-8")
    elif kind == "csv":
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, ["prompt", "response", "text"])
            table.writeheader()
            table.writerows(found)
    elif kind == "json":
        path.write_text(json.dumps(found))
    else:
        arrow = pytest.importorskip("pyarrow")
        table = arrow.table({key: [row.get(key) for row in found] for key in ("prompt", "response", "text")})
        if kind == "parquet":
            pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=9)
        else:
            new = arrow.ipc.new_stream if kind == "stream" else arrow.ipc.new_file
            with new(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=9)
    return path


def settings_of(path: Path) -> DataSettings:
    return DataSettings(path=str(path), max_prompt_tokens=60, max_response_tokens=12)


def values(sequences: list[TokenSequence]) -> list[tuple[Any, ...]]:
    return [(s.example, s.prompt_id, s.sample, s.prompt_ids.tolist(), s.response_ids.tolist()) for s in sequences]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("need_response", [True, False])
def test_any_part_equals_that_part_of_the_whole(
    tmp_path: Path, tokenizer: Tokenizer, kind: str, need_response: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_RECORDS", 5)
    monkeypatch.setattr(columnar, "_BATCH", 4)
    monkeypatch.setattr(selection, "_IN_MEMORY", 8)
    found = [row for row in content() if need_response or "prompt" in row]
    settings = settings_of(write(tmp_path, kind, found))
    whole = prepare(settings, tokenizer, need_response=need_response)
    indexed = index_data(settings, tokenizer, need_response=need_response, directory=None)
    assert len(indexed) == len(whole.sequences) > 18
    assert indexed.fingerprint == data_fingerprint(whole.sequences)
    assert indexed.footer.lines == tuple(whole.report.lines())
    sizes = np.concatenate(list(indexed.lengths()))
    assert sizes.tolist() == [[len(s.prompt_ids), len(s.response_ids)] for s in whole.sequences]
    expected = values(whole.sequences)
    for positions in (range(len(expected)), range(7, 12), [len(expected) - 1], [0, 3, 4, 18], range(2, 5), []):
        assert values(indexed.read(positions)) == [expected[i] for i in positions]


def test_samples_are_counted_in_the_fingerprint(tmp_path: Path, tokenizer: Tokenizer) -> None:
    settings = settings_of(write(tmp_path, "jsonl", [{"prompt": f"read {i}"} for i in range(9)]))
    prompts = prepare(settings, tokenizer, need_response=False).sequences
    indexed = index_data(settings, tokenizer, need_response=False, samples=3, directory=tmp_path)
    assert indexed.fingerprint == data_fingerprint(replace(s, sample=n) for s in prompts for n in range(3))


def test_an_index_is_written_once_and_belongs_to_what_decides_it(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(write(tmp_path, "jsonl", content()))

    def again(settings: DataSettings) -> IndexedSequences:
        return index_data(settings, tokenizer, need_response=True, directory=tmp_path)

    first = again(settings)
    (path,) = tmp_path.glob("*.index")
    with monkeypatch.context() as patch:
        patch.setattr(index, "write_parts", None)  # not called
        assert values(again(settings).read(range(9))) == values(first.read(range(9)))
    again(replace(settings, max_response_tokens=11))
    write(tmp_path, "jsonl", content(39))
    again(settings)
    assert len(list(tmp_path.glob("*.index"))) == 3
    write(tmp_path, "jsonl", content())
    for damage in (b"", b"short", path.read_bytes()[:-9], path.read_bytes()[16:]):
        path.write_bytes(damage)
        assert again(settings).fingerprint == first.fingerprint


def test_data_that_changes_behind_its_index_is_found(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path, "jsonl", content())
    indexed = index_data(settings_of(path), tokenizer, need_response=True, directory=None)
    path.write_text(path.read_text().replace('"file 1"', '"le   1"'))
    with pytest.raises(DataError, match="the data has changed"):
        indexed.read(range(5))


def test_bad_lines_and_other_prompts_ids_are_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "d.jsonl"
    lines = [{"prompt": "a", "response": "b", "id": 1}, {"no": 1}, {"prompt": "c", "response": "d", "id": 1}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = replace(settings_of(path), on_bad_line="skip")
    indexed = index_data(settings, tokenizer, need_response=True, directory=None)
    assert len(indexed) == 1
    assert indexed.footer.lines == tuple(prepare(settings, tokenizer, need_response=True).report.lines())
    assert "2 unreadable lines skipped" in indexed.footer.lines[0]
    with pytest.raises(DataError, match="no key `prompt`"):
        index_data(replace(settings, on_bad_line="stop"), tokenizer, need_response=True, directory=None)


def test_tasks_of_an_array_share_one_pass(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them start at once; one writes the index, and the others wait for it."""
    source = tmp_path / "data.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in content()))
    settings = DataSettings(path=str(source), max_prompt_tokens=60)
    together, written, write = threading.Barrier(3), [], files.write_parts

    def slow_write(path: Path, *rest: Any) -> None:
        written.append(path)
        write(path, *rest)

    def task() -> IndexedSequences:
        together.wait()
        return index_data(settings, tokenizer, need_response=True, directory=tmp_path / "cache")

    monkeypatch.setattr(index, "write_parts", slow_write)
    (tmp_path / "cache").mkdir()
    with ThreadPoolExecutor(3) as pool:
        found = [future.result() for future in [pool.submit(task) for _ in range(3)]]
    assert len(written) == 1 and len({one.fingerprint for one in found}) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [written[0].name]
    assert len(found[2].read(range(len(found[2])))) == len(found[0]) > 20


class Shown:
    """A Progress that keeps the amount of each task that has a unit."""

    def __init__(self) -> None:
        self.amounts: dict[str, tuple[float, float | None]] = {}

    @contextmanager
    def task(self, name: str, total: float | None, unit: str = "") -> Iterator[Any]:
        done = [0.0]

        class Bar:
            def advance(self, amount: float = 1, **_: object) -> None:
                done[0] += amount

            def left(self, seconds: float) -> None: ...

        yield Bar()
        if unit:
            self.amounts[name] = (done[0], total)

    def note(self, message: str) -> None: ...


def test_progress_reaches_its_total_as_the_data_is_encoded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    settings = DataSettings(path=str(write(tmp_path, "jsonl", content(1200))), limit=500)
    shown = Shown()
    index_data(settings, tokenizer, need_response=True, directory=None, progress=shown)
    done, total = shown.amounts["encoding data"]
    assert done == total and total > 500  # prompts, some of them with two records
