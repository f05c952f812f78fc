"""Checkpoints of other architectures through transformers: GPT-2 (absolute positions) and T5 (encoder-decoder)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.config import SamplingSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, ModelError
from thack.generation.sampler import GenerationRequest, generate
from thack.models.batch import Batch
from thack.models.hf import load as hf
from thack.models.load import load_model
from thack.models.precision import FLOAT32
from thack.models.protocol import LanguageModel

transformers = pytest.importorskip("transformers")

LENGTHS = [(5, 4), (1, 1), (3, 7), (9, 2)]
WIDTH = 290  # of the heads: wider than the tokenizer (pitfall 13)


def reference_model(kind: str) -> Any:
    """A random tiny model whose every parameter matters."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=WIDTH, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        options = {"vocab_size": WIDTH, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if kind == "t5-untied" else {}
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(**options, **gated, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def reference_rows(model: Any, s: TokenSequence) -> torch.Tensor:
    """Logits of the response tokens of one unpadded sequence, straight from transformers."""
    prompt, response = (torch.from_numpy(ids.astype(np.int64))[None] for ids in (s.prompt_ids, s.response_ids))
    if model.config.is_encoder_decoder:
        shifted = torch.cat((torch.tensor([[model.config.decoder_start_token_id]]), response[:, :-1]), dim=1)
        logits: torch.Tensor = model(input_ids=prompt, decoder_input_ids=shifted).logits[0]
        return logits
    logits = model(input_ids=torch.cat((prompt, response), dim=1)).logits[0]
    return logits[prompt.shape[1] - 1 : -1]


KINDS = ["gpt2", "t5", "t5-untied"]


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer
) -> tuple[Any, LanguageModel]:
    reference = reference_model(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    reference.save_pretrained(directory)
    tokenizer.save(directory)
    return reference, load_model(directory)


@torch.no_grad()
def test_rows_are_those_of_unpadded_sequences(pair: Any, make_sequences: Any) -> None:
    reference, model = pair
    sequences = make_sequences(LENGTHS)
    expected = torch.cat([reference_rows(reference, s) for s in sequences])
    torch.testing.assert_close(model(Batch.of(sequences)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hidden_times_head_is_logits(pair: Any, make_sequences: Any) -> None:
    """Also for a tied T5, which scales its hidden rows before the head."""
    _, model = pair
    batch = Batch.of(make_sequences(LENGTHS))
    hidden_NH = model(batch, project=False)
    assert hidden_NH.shape == (len(batch.labels_N), model.head().in_features)
    torch.testing.assert_close(model.head()(hidden_NH), model(batch), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_as_in_transformers(pair: Any, make_sequences: Any) -> None:
    reference, model = pair
    sequences = make_sequences(LENGTHS)
    weights = torch.randn(sum(len(s.response_ids) for s in sequences), WIDTH)
    reference.zero_grad()
    model.zero_grad()
    (torch.cat([reference_rows(reference, s) for s in sequences]) * weights).sum().backward()
    (model(Batch.of(sequences)) * weights).sum().backward()
    for (name, theirs), ours in zip(reference.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-3, msg=f"{name}: {{}}".format)


@torch.no_grad()
def test_decoding_with_the_cache_is_the_full_forward(pair: Any, make_sequences: Any) -> None:
    """Prompts of different lengths, padded on the left; rows dropped on the way."""
    _, model = pair
    sequences = make_sequences([(5, 6), (1, 6), (3, 6), (9, 6)])
    state = model.start([s.prompt_ids for s in sequences], 6)
    alive = torch.arange(4)
    for t in range(6):
        live = [sequences[i] for i in alive]
        full = model(Batch.of(live)).view(len(live), 6, -1)[:, t]
        torch.testing.assert_close(state.logits(), full, atol=1e-5, rtol=1e-5)
        if t == 5:
            break
        if t == 2:
            kept = torch.tensor([0, 1, 3])
            state.keep(kept)
            alive = alive[kept]
        state.append(torch.tensor([int(sequences[i].response_ids[t]) for i in alive]))


RECURRENT = {
    "mamba": {"hidden_size": 16},
    "falcon_h1": {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    | {
        "head_dim": 8,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_ssm": 32,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
}


@pytest.mark.filterwarnings("ignore")  # transformers', about kernels that are not installed
@pytest.mark.parametrize("kind", RECURRENT)
@torch.no_grad()
def test_rows_of_recurrent_models_are_dropped_on_the_way(kind: str, tokenizer: Tokenizer, make_sequences: Any) -> None:
    """Models whose memory is a state beside, or instead of, keys and values."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=WIDTH, num_hidden_layers=2, **RECURRENT[kind])
    model = hf.wrap(transformers.AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    sequences = make_sequences([(5, 3), (1, 3), (3, 3), (9, 3)])
    state, rows = model.start([s.prompt_ids for s in sequences], 3), torch.tensor([0, 3])
    state.append(torch.tensor([int(s.response_ids[0]) for s in sequences]))
    state.keep(rows)
    state.append(torch.tensor([int(sequences[i].response_ids[1]) for i in rows]))
    full = model(Batch.of([sequences[i] for i in rows])).view(2, 3, -1)[:, 2]
    torch.testing.assert_close(state.logits(), full, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module", params=["phi3", "phimoe"])
def longrope(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> tuple[Any, LanguageModel]:
    torch.manual_seed(0)
    scales = {"short_mscale": 1.0, "long_mscale": 1.3} if request.param == "phimoe" else {}
    config = transformers.AutoConfig.for_model(
        request.param,
        **{"vocab_size": WIDTH, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 1},
        **{"pad_token_id": 0, "max_position_embeddings": 128, "original_max_position_embeddings": 32},
        rope_parameters={
            **{"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32},
            **{"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0], **scales},
        },
    )
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return reference, hf.wrap(reference, tokenizer)


class TestLongRope:
    """Phi-3-128k: one set of frequencies for texts of up to 32 tokens, another for longer ones."""

    @torch.no_grad()
    def test_a_sequence_has_the_logits_that_it_has_alone(self, longrope: Any, make_sequences: Any) -> None:
        reference, model = longrope
        sequences = make_sequences([(40, 20), (20, 6), (30, 3), (30, 4), (3, 2)])
        read = [np.append(s.prompt_ids, s.response_ids[:-1]) for s in sequences]  # 32 and 33 tokens of two
        logits = [reference(torch.from_numpy(ids.astype(np.int64))[None]).logits[0] for ids in read]
        expected = torch.cat([rows[-len(s.response_ids) :] for rows, s in zip(logits, sequences, strict=True)])
        torch.testing.assert_close(model(Batch.of(sequences)), expected, atol=1e-4, rtol=1e-4)

    @torch.no_grad()
    def test_decoding_is_the_forward_on_both_sides(self, longrope: Any, make_sequences: Any) -> None:
        """Some cross the boundary, at several steps, some are beyond it, some never get there; one ends early."""
        reference, model = longrope
        sequences = make_sequences([(20, 16), (40, 16), (30, 16), (5, 16), (20, 16), (32, 16), (33, 16), (45, 16)])
        texts = {i: s.prompt_ids.tolist() for i, s in enumerate(sequences)}
        state, rows = model.start([s.prompt_ids for s in sequences], 16), list(texts)
        for t in range(16):
            expected = torch.stack([reference(torch.tensor([texts[i]])).logits[0, -1] for i in rows])
            torch.testing.assert_close(state.logits(), expected, atol=1e-4, rtol=1e-4)
            if t in (4, 14):
                kept = [n for n in range(len(rows)) if n != 1]
                state.keep(torch.tensor(kept))
                rows = [rows[n] for n in kept]
            for i in rows:
                texts[i].append(int(sequences[i].response_ids[t]))
            state.append(torch.tensor([texts[i][-1] for i in rows]))

    @torch.no_grad()
    def test_greedy_responses_are_those_of_transformers(self, longrope: Any, make_sequences: Any) -> None:
        reference, model = longrope
        prompts = [s.prompt_ids for s in make_sequences([(20, 1), (30, 1)])]
        request = GenerationRequest(
            sampling=SamplingSettings(greedy=True), max_new_tokens=16, seed=0, epoch=0, batch_size=2, precision=FLOAT32
        )
        padded = [*range(model.tokenizer.size, WIDTH)]
        for prompt, ours in zip(prompts, generate(model, prompts, request, examples=[0, 1]), strict=True):
            ids = torch.tensor([prompt.tolist()])
            theirs = reference.generate(ids, max_new_tokens=16, do_sample=False, suppress_tokens=padded)
            assert ours.tolist() == theirs[0, len(prompt) :].tolist()


@pytest.mark.filterwarnings("ignore")
def test_several_predictions_for_one_position_are_refused(tokenizer: Tokenizer, make_sequences: Any) -> None:
    options = {"num_encoder_layers": 1, "num_decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    options |= {"num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "hidden_size": 16}
    config = transformers.ProphetNetConfig(vocab_size=WIDTH, decoder_start_token_id=1, **options)
    model = hf.wrap(transformers.ProphetNetForConditionalGeneration(config).eval(), tokenizer)
    with pytest.raises(ModelError, match=r"projects \d+ rows for \d+ tokens"):
        model(Batch.of(make_sequences([(5, 7)])))


def test_save_and_load(pair: Any, tmp_path: Path, make_sequences: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Trap 20: the fingerprint is of content, wherever it lies."""
    reference, model = pair
    model.save(tmp_path / "again")
    again, batch = load_model(tmp_path / "again"), Batch.of(make_sequences(LENGTHS))
    assert torch.equal(again(batch), model(batch))
    assert again.fingerprint() == model.fingerprint()
    assert "%" not in capfd.readouterr().err  # no progress bars but ours
    loaded = type(reference).from_pretrained(tmp_path / "again")
    assert torch.equal(loaded.get_output_embeddings().weight, reference.get_output_embeddings().weight)
    with torch.no_grad():
        next(again.parameters())[0, 0] += 1e-3
    assert again.fingerprint() != model.fingerprint()


def test_facts(pair: Any, tokenizer: Tokenizer) -> None:
    _, model = pair
    assert isinstance(model, LanguageModel)
    assert not model.training
    assert model.vocab_size == WIDTH > tokenizer.size
    assert (model.max_positions == 32) != model.is_encoder_decoder


class TestErrors:
    @pytest.fixture
    def directory(self, tmp_path: Path, tokenizer: Tokenizer) -> Path:
        reference_model("gpt2").save_pretrained(tmp_path)
        tokenizer.save(tmp_path)
        return tmp_path

    def change(self, directory: Path, **values: Any) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def test_remote_code_is_not_run(self, directory: Path) -> None:
        (directory / "evil.py").write_text("raise SystemExit('ran')")
        auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        self.change(directory, model_type="evil", architectures=["Evil"], auto_map=auto)
        with pytest.raises(ModelError, match="transformers cannot load"):
            load_model(directory)

    def test_missing_weights_are_not_made_up(self, directory: Path) -> None:
        self.change(directory, n_layer=3)
        with pytest.raises(ModelError, match=r"missing weights, such as .*h\.2"):
            load_model(directory)

    def test_pickles_are_not_read(self, directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
        with pytest.raises(ModelError, match="no safetensors"):
            load_model(directory)

    def test_fewer_embeddings_than_tokens(self, directory: Path) -> None:
        Tokenizer.train(["abc " * 50] + [f"{i} {i * 7919}" for i in range(400)], 300).save(directory)
        with pytest.raises(ModelError, match="290 embeddings, its tokenizer 300 tokens"):
            load_model(directory)

    def test_too_long(self, directory: Path, make_sequences: Any) -> None:
        model = load_model(directory)
        with pytest.raises(DataError, match="exceeds the model's 32 positions"):
            model(Batch.of(make_sequences([(30, 5)])))

    def test_no_start_token(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        reference_model("t5").save_pretrained(tmp_path)
        tokenizer.save(tmp_path)
        (tmp_path / "generation_config.json").unlink(missing_ok=True)
        self.change(tmp_path, decoder_start_token_id=None)
        with pytest.raises(ModelError, match="no start token"):
            load_model(tmp_path)
