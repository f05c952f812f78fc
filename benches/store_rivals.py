"""The store beside stock safetensors and Parquet: flipped bits, kills while writing, fsync, memory of a bomb.

Run: python benches/store_rivals.py (prints a table; about a minute). The same rows, 64 ids and
log-probabilities of a token, go into each format by the library's own defaults; "Parquet + CRC" asks for page
checksums when writing and reading. fsync is counted by strace, where it is installed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from safetensors.numpy import load_file, save_file

from thack import _native
from thack.cache.format.layout import RecordLayout
from thack.schema.targets import TargetSpec

FLIPS, KILLS = 2000, 20
LAYOUT = RecordLayout(spec=TargetSpec(kind="top-k", k=64), vocab_size=32_000)
METADATA = {"plan": "sha256:x", **LAYOUT.metadata()}


def rows(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = np.cumsum(rng.integers(1, 499, (tokens, 64), dtype=np.int32), axis=1, dtype=np.int32)
    return ids, (-5 - 6 * rng.random((tokens, 64), dtype=np.float32)).astype(np.float32)


@dataclass(frozen=True)
class Store:
    """How one library writes rows, and reads back everything that it was given, or raises."""

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], bytes]


def thack_write(path: Path, tokens: int) -> None:
    ids, values = rows(tokens)
    writer = _native.ShardWriter(path, METADATA)
    writer.records(LAYOUT.native.encode_top_k(ids, values, np.full(tokens, -1, np.float32), np.empty(0, np.float32)))
    writer.sequence((0, 0, 0), "p", np.zeros(1, np.int32), np.zeros(tokens, np.int32))
    writer.finish()


def thack_read(path: Path) -> bytes:
    """The root of all bytes: `verify --full` has compared it with every one."""
    return json.dumps(_native.verify_shard(path, True)).encode()


def stock_write(path: Path, tokens: int) -> None:
    ids, values = rows(tokens)
    save_file({"ids": ids, "log_probs": values}, path, {"plan": "x"})


def stock_read(path: Path) -> bytes:
    found = load_file(path)
    return found["ids"].tobytes() + found["log_probs"].tobytes()


def parquet_write(path: Path, tokens: int, crc: bool = False) -> None:
    ids, values = rows(tokens)
    table = pyarrow.table({"ids": ids.ravel(), "log_probs": values.ravel()})
    parquet.write_table(table, path, write_page_checksum=crc)


def parquet_read(path: Path, crc: bool = False) -> bytes:
    table = parquet.read_table(path, page_checksum_verification=crc)
    return b"".join(table[name].to_numpy().tobytes() for name in ("ids", "log_probs"))


STORES = {
    store.name: store
    for store in (
        Store("thack", thack_write, thack_read),
        Store("safetensors", stock_write, stock_read),
        Store("Parquet", parquet_write, parquet_read),
        Store("Parquet + CRC", lambda p, n: parquet_write(p, n, True), lambda p: parquet_read(p, True)),
    )
}


def flips(store: Store, scratch: Path) -> str:
    """Share of single flipped bits that raise; the rest is the same data, or other data in silence."""
    path = scratch / "flips"
    store.write(path, 256)
    whole, expected = path.read_bytes(), store.read(path)
    bits = random.Random(0).sample(range(8 * len(whole)), FLIPS)
    seen: Counter[str] = Counter()
    while bits:
        done = _in_a_child(partial(_flip_each, store, path, whole, expected, bits))
        seen.update({"s": "same", "e": "error", "w": "wrong"}[letter] for letter in done)
        bits = bits[len(done) :]
        if bits:  # the child died on the next one
            seen["crash"] += 1
            bits = bits[1:]
    return ", ".join(f"{seen[kind] / FLIPS:.1%} {kind}" for kind in ("error", "wrong", "same", "crash") if seen[kind])


def _flip_each(store: Store, path: Path, whole: bytes, expected: bytes, bits: list[int]) -> None:
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            letter = b"s" if store.read(path) == expected else b"w"
        except Exception:
            letter = b"e"
        os.write(1, letter)


def _in_a_child(work: Callable[[], object]) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        os.close(reading)
        try:
            work()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read().decode()
    os.waitpid(pid, 0)
    return found


def kills(store: Store, scratch: Path) -> str:
    """What stands under the file's name after kill -9 at random moments of writing it, and what lies beside."""
    rng, seen = random.Random(1), Counter[str]()
    path = scratch / "k" / "file"
    started = time.perf_counter()
    _prepared(path)
    store.write(path, 1 << 15)
    duration, expected = time.perf_counter() - started, store.read(path)
    for _ in range(KILLS):
        _prepared(path)
        pid = os.fork()
        if pid == 0:
            store.write(path, 1 << 15)
            os._exit(0)
        time.sleep(rng.uniform(0.2, 1.0) * duration)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        seen[_state(store, path, expected)] += 1
        seen["with an orphan beside"] += any(name != path.name for name in os.listdir(path.parent))
    return ", ".join(f"{n} {what}" for what, n in seen.items() if n)


def _prepared(path: Path) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()


def _state(store: Store, path: Path, expected: bytes) -> str:
    if not path.exists():
        return "absent"
    try:
        return "whole" if store.read(path) == expected else "torn and read"
    except Exception:
        return "torn"


def syncs(store: Store, scratch: Path) -> str:
    """Calls of fsync while one file is written."""
    if shutil.which("strace") is None:
        return "no strace"
    log = scratch / "strace"
    command = [sys.executable, __file__, "write", store.name, str(scratch / "synced")]
    trace = ["strace", "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", "-o", str(log), *command]
    subprocess.run(trace, check=True, capture_output=True)
    calls = re.findall(r"fsync\(\d+<([^>]*)>|fdatasync\(\d+<([^>]*)>", log.read_text())
    places = Counter("directory" if Path(a or b) == scratch else "file" for a, b in calls)
    return ", ".join(f"{n} of the {what}" for what, n in places.items()) or "none"


def bomb(store: Store, scratch: Path) -> str:
    """Memory that a small file takes, built to take much: a header of many entries, a column of one value."""
    path = scratch / "bomb"
    if "Parquet" in store.name:
        zeros = pyarrow.array(np.zeros(1 << 27, np.int32))
        parquet.write_table(pyarrow.table({"ids": zeros, "log_probs": zeros}), path, compression="zstd")
    else:
        entry = b'"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
        head = b"{" + b"".join(entry % n for n in range(1_500_000))[:-1] + b"}"
        path.write_bytes(len(head).to_bytes(8, "little") + head)
        if store.name == "thack":  # what its trailer says is right
            _seal(path)
    size = path.stat().st_size / 1e6
    found = subprocess.run([sys.executable, __file__, "read", store.name, str(path)], capture_output=True, text=True)
    said = found.stdout.strip() or f"died ({found.returncode})"
    return f"{size:,.2f} MB: {said}"


def _seal(path: Path) -> None:
    """A good shard behind the header, so that not the trailer is what refuses it."""
    good = path.with_name("good")
    thack_write(good, 4)
    path.write_bytes(path.read_bytes() + good.read_bytes()[-64:])


def _peak() -> int:
    """Most memory that this process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def _read_and_tell(store: Store, path: Path) -> None:
    before = _peak()
    try:
        store.read(path)
        outcome = "read"
    except Exception:
        outcome = "refused"
    print(f"{outcome} with +{(_peak() - before) / 2**20:,.0f} MiB")


def main() -> None:
    for name, store in STORES.items():
        with TemporaryDirectory(prefix="thack-") as scratch:
            print(f"\n{name}")
            for measure in (flips, kills, syncs, bomb):
                print(f"  {measure.__name__:<6} {measure(store, Path(scratch))}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        STORES[sys.argv[2]].write(Path(sys.argv[3]), 256)
    elif sys.argv[1:2] == ["read"]:
        _read_and_tell(STORES[sys.argv[2]], Path(sys.argv[3]))
    else:
        main()
