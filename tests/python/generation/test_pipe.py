"""Prompts that come through a pipe get the responses that a file of them gets."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

from thack.config import GenerateSettings
from thack.generation.run import run_generate
from training.small import model
from training.world import DATA, records, write


def test_a_pipe_is_read_as_its_content(tmp_path: Path) -> None:
    model(0).save(tmp_path / "model")
    file, pipe = write(tmp_path / "prompts.jsonl", records(6)), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(file.read_bytes(),))
    writer.start()
    found = []
    for source in (pipe, file):
        data, out = replace(DATA, path=str(source)), tmp_path / f"of-{source.name}"
        run_generate(GenerateSettings(out=out, model=str(tmp_path / "model"), data=data, batch_size=3, device="cpu"))
        found.append((out / "responses.jsonl").read_bytes())
    writer.join()
    assert found[0] == found[1] and found[0].count(b"\n") == 6
