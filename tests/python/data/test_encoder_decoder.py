"""Conversations of encoder-decoders: two texts, each as transformers encodes it, and the loss that transformers has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from thack.data.encode import RecordEncoder, encode_prompts
from thack.data.formats import to_record
from thack.data.records import RecordRefusal
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError
from thack.models.batch import Batch
from thack.models.load import load_model

from .small import ANSWER, BOS_ID, CHATML, END_ID, EOS_ID, START_ID, USER, byte_ids, write_metaspace, write_tokenizer

transformers = pytest.importorskip("transformers")

ENCODER_DECODER = {"is_encoder_decoder": True}
CLOSED = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"  # as Blenderbot's: turns closed by EOS
MARKED = CHATML.replace(
    "m.content + '<|im_end|>\n' }}",
    "'' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}",
)
LONG = [USER, ANSWER, {"role": "user", "content": "and?"}, {"role": "assistant", "content": "yes"}]


def pairs(tokenizer: Tokenizer, messages: list[Any], train_on: Any = "last") -> list[tuple[list[int], list[int]]]:
    (found,) = RecordEncoder(tokenizer, train_on=train_on).pairs([to_record({"messages": messages})])
    assert isinstance(found, list)
    return [(pair.prompt_ids.tolist(), pair.response_ids.tolist()) for pair in found]


def their_source(directory: Path, messages: list[Any]) -> list[int]:
    """The rendered prompt as transformers gives a text to an encoder."""
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    found: list[int] = theirs(text).input_ids
    return found


def their_target(directory: Path, text: str) -> list[int]:
    """An answer as transformers has it as labels, with the end that the template writes."""
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    return [*(i for i in theirs(text_target=text).input_ids if i != EOS_ID), END_ID]


@pytest.mark.parametrize("around", ["$A </s>", "<s> $A </s>", ""])
@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_the_encoder_reads_the_rendered_prompt_with_its_end(around: str, template: str, tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path, template=template, around=around, model=ENCODER_DECODER)
    tokenizer = Tokenizer.load(path)
    found = pairs(tokenizer, LONG, "all")
    assert found == [
        (their_source(path, LONG[:1]), their_target(path, "ok")),
        (their_source(path, LONG[:3]), their_target(path, "yes")),
    ]
    (prompt,) = encode_prompts([to_record({"messages": LONG})], tokenizer)
    assert prompt.tolist() == found[1][0]  # what is generated from is what is trained on


def test_an_end_that_the_template_wrote_is_not_doubled(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path, template=CLOSED, around="<s> $A </s>", model=ENCODER_DECODER)
    assert pairs(Tokenizer.load(path), [USER, ANSWER]) == [
        ([BOS_ID, *byte_ids("hi"), EOS_ID], [BOS_ID, *byte_ids("ok"), EOS_ID])
    ]


def test_the_response_begins_a_text_of_its_own(tmp_path: Path) -> None:
    """With the space that the tokenizer puts before a text, as `text_target` of transformers has it."""
    path = write_metaspace(tmp_path, template=CLOSED)
    tokenizer = Tokenizer.load(path).for_architecture(encoder_decoder=True)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    ((_, response),) = pairs(tokenizer, [USER, {"role": "assistant", "content": "Hello"}])
    assert response == [*theirs(text_target="Hello").input_ids, tokenizer.eos_id]
    assert tokenizer.token(response[0]) == "▁H"


@pytest.mark.parametrize("written", ["ok", "<s>ok", "<s>ok</s>"])
def test_a_text_begins_and_ends_once(written: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path, around="<s> $A </s>", model=ENCODER_DECODER))
    (found,) = RecordEncoder(tokenizer).pairs([to_record({"prompt": "hi", "response": written})])
    assert isinstance(found, list) and found[0].response_ids.tolist() == [BOS_ID, *byte_ids("ok"), EOS_ID]
    assert RecordEncoder(tokenizer).pairs([to_record({"prompt": "hi", "response": ""})]) == [[]]


@pytest.mark.parametrize(
    ("forced", "around", "is_read"),
    [(BOS_ID, "<s> $A </s>", True), (START_ID, "<s> $A </s>", False), (BOS_ID, "$A </s>", False)],
)
def test_a_forced_first_token_is_the_one_before_a_text(forced: int, around: str, is_read: bool, tmp_path: Path) -> None:
    config = transformers.BartConfig(
        **{"vocab_size": 260, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        **{"pad_token_id": 0, "eos_token_id": EOS_ID, "decoder_start_token_id": EOS_ID},
    )
    network = transformers.BartForConditionalGeneration(config)
    network.generation_config.forced_bos_token_id = forced
    network.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, around=around)
    if is_read:
        load_model(tmp_path)
        return
    with pytest.raises(ModelError, match=f"forced_bos_token_id = {forced}: thack lets the model choose"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_loss_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    small = {"vocab_size": 260, "d_model": 16, "pad_token_id": 0, "eos_token_id": EOS_ID, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(**small, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        network = transformers.T5ForConditionalGeneration(config).eval()
    else:
        sides = {f"{side}_{key}": size for side in ("encoder", "decoder") for key, size in
                 (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
        config = transformers.BartConfig(**small, **sides, max_position_embeddings=64)
        network = transformers.BartForConditionalGeneration(config).eval()
    network.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, template=CHATML, around="<s> $A </s>", config={"pad_token": "!"})
    model = load_model(tmp_path, role="teacher")
    (found,) = RecordEncoder(model.tokenizer).pairs([to_record({"messages": LONG})])
    assert isinstance(found, list)
    pair = found[0]
    sequence = TokenSequence(example=0, prompt_id="a", prompt_ids=pair.prompt_ids, response_ids=pair.response_ids)
    batch = Batch.of([sequence])
    with torch.inference_mode():
        ours = torch.nn.functional.cross_entropy(model(batch).double(), batch.labels_N)
        source = torch.tensor([their_source(tmp_path, LONG[:3])])
        theirs = network(input_ids=source, labels=torch.tensor([their_target(tmp_path, "yes")])).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


class TestEmptyPrompts:
    """A response needs a token to begin from."""

    @pytest.mark.parametrize("around", ["<s> $A", "<s> $A </s>"])
    def test_a_bos_is_one(self, around: str, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path, around=around)
        theirs = transformers.AutoTokenizer.from_pretrained(path)("").input_ids
        record = to_record({"prompt": "", "response": "ok"})
        (found,) = RecordEncoder(Tokenizer.load(path)).pairs([record])
        assert isinstance(found, list)
        assert found[0].prompt_ids.tolist() == [BOS_ID] == theirs[:1]
        assert found[0].response_ids.tolist() == [*byte_ids("ok"), EOS_ID]

    def test_without_one_the_line_is_named_and_what_to_give_instead(self, tmp_path: Path) -> None:
        from thack.config import DataSettings
        from thack.data.prepare import prepare
        from thack.errors import DataError

        from .small import write_rows

        rows = [{"prompt": "hi", "response": "ok"}, {"prompt": "", "response": "a"}, {"prompt": "", "response": "b"}]
        path = write_rows(tmp_path / "d.jsonl", *rows)
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        (refused,) = RecordEncoder(tokenizer).prompts([to_record(rows[1])])
        assert isinstance(refused, RecordRefusal)
        with pytest.raises(DataError, match=r"d\.jsonl:2: empty prompt, before which .* no BOS[\s\S]*as `text` alone"):
            prepare(DataSettings(path=str(path)), tokenizer, need_response=True)
        skipped = prepare(DataSettings(path=str(path), on_bad_line="skip"), tokenizer, need_response=True)
        assert len(skipped.sequences) == 1 and len(skipped.report.skipped) == 2
        closed = Tokenizer.load(write_tokenizer(tmp_path / "bos", around="<s> $A"))
        assert len(prepare(DataSettings(path=str(path)), closed, need_response=True).sequences) == 3
