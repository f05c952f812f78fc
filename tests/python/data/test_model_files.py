"""A model directory is data of a stranger: regular files inside it, of bounded sizes, and nothing else is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from thack.data.model_files import check_directory, model_file, read_object, read_text
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError

from .small import write_tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "model", template="{{ messages }}")


def test_what_is_not_there_is_none(directory: Path) -> None:
    (directory / "merges.txt").symlink_to("none")
    assert model_file(directory, "spiece.model") is None
    assert model_file(directory, "merges.txt") is None
    assert read_object(directory, "added_tokens.json") is None


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer_config.json", "chat_template.jinja", "tokenizer.json"])
def test_links_out_of_the_directory_are_refused_and_never_copied(directory: Path, name: str) -> None:
    secret = directory.parent / "secret"
    secret.write_text("{}")
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(secret)
    for read in (Tokenizer.load, check_directory):
        with pytest.raises(ModelError, match=rf"{name} is a link out of the model's directory, to .*secret"):
            read(directory)


def test_a_linked_directory_of_templates_is_refused(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir()
    (directory.parent / "elsewhere" / "a.jinja").write_text("x")
    (directory / "additional_chat_templates").symlink_to("../elsewhere")
    with pytest.raises(ModelError, match="link out of the model's directory"):
        Tokenizer.load(directory)


def test_links_inside_and_of_the_directory_itself_are_followed(directory: Path) -> None:
    (directory / "blob").write_bytes((directory / "tokenizer.json").read_bytes())
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.json").symlink_to("blob")
    (directory.parent / "link").symlink_to("model")
    check_directory(directory.parent / "link")
    assert Tokenizer.load(directory.parent / "link").fingerprint() == Tokenizer.load(directory).fingerprint()


def test_the_layout_of_the_hubs_cache_is_followed(directory: Path) -> None:
    home = directory.parent / "models--org--name"
    snapshot = home / "snapshots" / "0123abcd"
    (home / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in directory.iterdir():
        path.rename(home / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    check_directory(snapshot)
    assert Tokenizer.load(snapshot).size
    (snapshot / "vocab.json").symlink_to("../../../model")
    with pytest.raises(ModelError, match="link out"):
        check_directory(snapshot)


def test_fifos_devices_and_giants_are_named_at_once(directory: Path) -> None:
    os.mkfifo(directory / "config.json")
    with pytest.raises(ModelError, match=r"config.json is a FIFO"):
        Tokenizer.load(directory)
    (directory / "config.json").unlink()
    with open(directory / "spiece.model", "wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(ModelError, match=r"spiece.model has 10,737,418,240 bytes, more than 67,108,864"):
        Tokenizer.load(directory)


def test_templates_are_text_of_bounded_length(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"ok \xff")
    with pytest.raises(ModelError, match=r"chat_template.jinja: not UTF-8 \(byte 3\)"):
        Tokenizer.load(directory)
    (directory / "chat_template.jinja").write_text("x" * 300_000)
    with pytest.raises(ModelError, match=r"chat_template.jinja has 300,000 bytes, more than 262,144"):
        read_text(directory, "chat_template.jinja")
    (directory / "chat_template.jinja").unlink()
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "x" * 300_000}))
    with pytest.raises(ModelError, match="the chat template 'default' has more than"):
        Tokenizer.load(directory)


def test_a_post_processor_puts_few_tokens_around_a_text(directory: Path) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    token = content["added_tokens"][0]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 200_000 + [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"a": {"id": "a", "ids": [token["id"]], "tokens": [token["content"]]}},
    }
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="puts 200,000 special tokens around each text"):
        Tokenizer.load(directory)
