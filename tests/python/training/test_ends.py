"""A student that does not stop where its training responses end is refused, and the end can be named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import thack
from data.small import ANSWER, CHATML, END, END_ID, EOS_ID, USER, write_rows, write_tokenizer
from thack.config import ArchitectureSettings, CacheSettings, DataSettings, DistillSettings, EvaluationSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError
from thack.models.load import load_model, new_decoder

SHAPE = ArchitectureSettings(hidden_size=16, num_heads=2, max_positions=64)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ and instruct/, which share every id but the end; chats.jsonl, and a cache of the instruct model on it."""
    root = tmp_path_factory.mktemp("family")
    tokenizers = {
        "base": Tokenizer.load(write_tokenizer(root / "tokenizer-base")),
        "instruct": Tokenizer.load(
            write_tokenizer(root / "tokenizer-instruct", template=CHATML, config={"eos_token": END})
        ),
    }
    for name, tokenizer in tokenizers.items():
        new_decoder(SHAPE, tokenizer, seed=len(name)).save(root / name)
    write_rows(root / "chats.jsonl", {"messages": [USER, ANSWER]}, {"messages": [USER | {"content": "yo"}, ANSWER]})
    thack.cache_logits(
        CacheSettings(
            teacher=str(root / "instruct"),
            data=DataSettings(path=str(root / "chats.jsonl")),
            kind="dense",
            out=root / "cache",
            device="cpu",
        )
    )
    return root


def settings(family: Path, out: Path, *, live: bool, end: str = "") -> DistillSettings:
    return DistillSettings(
        student=str(family / "base"),
        teacher=str(family / "instruct") if live else "",
        cache="" if live else str(family / "cache"),
        data=DataSettings(path=str(family / "chats.jsonl") if live else "", max_response_tokens=8, end=end),
        evaluation=EvaluationSettings(count=0),
        steps=2,
        out=out,
        device="cpu",
    )


@pytest.mark.parametrize("live", [True, False])
def test_a_base_student_of_an_instruct_teacher_names_the_end(live: bool, family: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"does not stop where the \w+'s responses end") as caught:
        thack.distill(settings(family, tmp_path / "a", live=live))
    assert caught.value.details == (f"{'teacher' if live else 'cache':<8} {END}", "student  </s>")
    assert caught.value.hint is not None and f"`data.end = {END}`" in caught.value.hint
    result = thack.distill(settings(family, tmp_path / "b", live=live, end=END))
    student = load_model(result.model)
    assert student.tokenizer.ends.ids == {EOS_ID, END_ID}, "the student stops there after it is saved, too"


def test_conversations_are_rendered_by_the_teachers_template_where_the_student_has_none(
    family: Path, tmp_path: Path
) -> None:
    thack.distill(settings(family, tmp_path / "run", live=True, end=END))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert "sequences" in json.dumps(manifest)


def test_teachers_of_another_vocabulary_are_told_apart_by_what_differs(family: Path, tmp_path: Path) -> None:
    other = Tokenizer.train(["quite another text"] * 3, 264)
    new_decoder(SHAPE, other, seed=0).save(tmp_path / "other")
    wrong = replace(settings(family, tmp_path / "run", live=True), teacher=str(tmp_path / "other"))
    wrong = replace(wrong, loss=replace(wrong.loss, cross_tokenizer="refuse"))
    with pytest.raises(MismatchError, match=r"has another tokenizer[\s\S]*vocabulary: 256 and 264 tokens[\s\S]*merges"):
        thack.distill(wrong)


def test_most_truncated_responses_of_a_cache_are_a_warning(family: Path, tmp_path: Path) -> None:
    from thack.cache import Cache
    from thack.training.ends import check_cache_end

    thack.cache_logits(
        CacheSettings(
            teacher=str(family / "instruct"),
            data=DataSettings(path=str(family / "chats.jsonl"), max_response_tokens=2),
            kind="dense",
            out=tmp_path / "cut",
            device="cpu",
        )
    )
    instruct = load_model(family / "instruct").tokenizer
    (warning,) = check_cache_end(Cache.open(tmp_path / "cut"), instruct)
    assert "2 of 2 responses (100%) reached the maximum length" in warning
    assert check_cache_end(Cache.open(family / "cache"), instruct) == []


def test_transformers_models_name_all_their_ends_when_they_are_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from thack.data.date import follow_settings
    from thack.models.hf.load import wrap

    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=260, n_positions=32, eos_token_id=EOS_ID
    )
    model = transformers.GPT2LMHeadModel(config)
    ours = wrap(model, Tokenizer.load(write_tokenizer(tmp_path / "t")))
    follow_settings(ours, DataSettings(end=END), tmp_path)
    ours.save(tmp_path / "m")
    written = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [EOS_ID, END_ID]
    assert load_model(tmp_path / "m").tokenizer.ends.ids == {EOS_ID, END_ID}
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == [EOS_ID, END_ID]
