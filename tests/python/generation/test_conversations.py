"""Chat messages through the pipeline: the same ids as transformers' own, before and after `generate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import processors

from thack.config import ArchitectureSettings, DataSettings, GenerateSettings
from thack.data.prepare import prepare
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError
from thack.evaluation import EvalSet, References
from thack.generation.run import run_generate
from thack.models.load import new_decoder

TEMPLATE = """{{ bos_token }}{% for m in messages %}
[{{ m.role }}] {% generation %}{{ m.content }}{% endgeneration %}{% if loop.last %}{% break %}{% endif %}
{% endfor %}{{ {"a<b": messages[0].content} | tojson }}{% if add_generation_prompt %}[assistant]{% endif %}"""
TURNS = [{"role": "user", "content": "reads é & <path>"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer begins every text with a BOS, as its chat template does."""
    path = tmp_path_factory.mktemp("chat") / "model"
    trained = Tokenizer.train(["def read(path): reads the file"] * 3, 264)
    new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), trained, seed=0).save(path)
    backend = trained._backend
    backend.post_processor = processors.TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", 0)])
    backend.save(str(path / "tokenizer.json"))
    config = json.loads((path / "tokenizer_config.json").read_text())
    config |= {"bos_token": "<pad>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_conversation_is_the_ids_of_its_template_alone(directory: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    rows = [{"messages": [*TURNS, {"role": "assistant", "content": "x"}]}, {"prompt": "reads"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = Tokenizer.load(directory)
    found = prepare(DataSettings(path=str(tmp_path / "p.jsonl")), tokenizer, need_response=False).sequences
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    expected = theirs.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)
    assert found[0].prompt_ids.tolist() == expected
    assert found[1].prompt_ids.tolist() == theirs("reads").input_ids
    references = References.of(teacher=directory)
    eval_set = EvalSet.from_jsonl(tmp_path / "p.jsonl").with_responses(references, max_new_tokens=1)
    assert [p.tolist() for p in eval_set.prompts] == [s.prompt_ids.tolist() for s in found]


def test_what_generate_wrote_is_read_as_the_conversation_that_it_was(directory: Path, tmp_path: Path) -> None:
    """A prompt that is JSON of turns would be scored as a text about JSON."""
    data = tmp_path / "p.jsonl"
    data.write_text(json.dumps({"messages": TURNS}) + "\n")
    limited = DataSettings(path=str(data), max_response_tokens=5, max_prompt_tokens=90)
    run_generate(GenerateSettings(out=tmp_path / "out", model=str(directory), data=limited))
    tokenizer = Tokenizer.load(directory)
    (asked,) = prepare(DataSettings(path=str(data)), tokenizer, need_response=False).sequences
    (read,) = prepare(DataSettings(path=str(tmp_path / "out")), tokenizer, need_response=True).sequences
    assert read.prompt_id == asked.prompt_id
    assert np.array_equal(read.prompt_ids, asked.prompt_ids)
    assert 1 <= len(read.response_ids) <= 5


def test_responses_are_not_written_over(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "reads"}\n')
    data = DataSettings(path=str(tmp_path / "p.jsonl"), max_response_tokens=3)
    settings = GenerateSettings(out=tmp_path / "out", model=str(directory), data=data)
    first = run_generate(settings)
    before = (settings.out / "responses.jsonl").stat().st_mtime_ns
    assert run_generate(settings) == first
    with pytest.raises(MismatchError, match="other responses\n  seed  0 there, 1 now"):
        run_generate(replace(settings, seed=1))
    (tmp_path / "p.jsonl").write_text('{"prompt": "reads a file"}\n')
    with pytest.raises(MismatchError, match="other responses\n  data"):
        run_generate(settings)
    assert (settings.out / "responses.jsonl").stat().st_mtime_ns == before
