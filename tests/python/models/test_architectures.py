"""Scoring, generation and heads of many architectures equal transformers' own forward of each sequence alone.

`make compat` takes every causal and encoder-decoder model that transformers can build tiny.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers

from thack.config import SamplingSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError
from thack.generation.sampler import GenerationRequest, generate
from thack.models.batch import Batch
from thack.models.hf import probe
from thack.models.hf.load import wrap
from thack.models.hf.probe import Generation
from thack.models.protocol import HeadForm

from .architectures import build
from .compat import check, reference

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

LENGTHS = [(5, 6), (1, 6), (3, 6), (9, 6)]
CACHED, UNMIXED = Generation(offset=0), Generation(mixed=False)
RECOMPUTED = Generation(cached=False, select="")
PLAIN = HeadForm()

# What each family needs, and what its head does. The families are those that reports were about, and the common ones.
CAUSAL: dict[str, tuple[Generation, HeadForm | None]] = {
    "gpt2": (CACHED, PLAIN),
    "llama": (CACHED, PLAIN),
    "mixtral": (CACHED, PLAIN),
    "gpt_oss": (CACHED, PLAIN),
    "deepseek_v3": (CACHED, PLAIN),
    "bert": (CACHED, PLAIN),
    "gemma2": (CACHED, HeadForm(softcap=0.5)),
    "cohere": (CACHED, HeadForm(scale=0.3)),
    "granite": (CACHED, HeadForm(scale=1 / 3)),
    "falcon_h1": (CACHED, HeadForm(scale=0.4)),
    "mamba": (Generation(), PLAIN),
    "bloom": (Generation(), PLAIN),
    # Positions begin at padding_idx + 1.
    "roberta": (Generation(offset=1), PLAIN),
    "xlm-roberta": (Generation(offset=1), PLAIN),
    "camembert": (Generation(offset=1), PLAIN),
    "data2vec-text": (Generation(offset=1), PLAIN),
    # Positions or blocks are counted by column, whatever the mask says.
    "bart": (UNMIXED, PLAIN),
    "mbart": (UNMIXED, PLAIN),
    "marian": (UNMIXED, PLAIN),
    "pegasus": (UNMIXED, PLAIN),
    "blenderbot-small": (UNMIXED, PLAIN),
    "trocr": (UNMIXED, PLAIN),
    "roformer": (UNMIXED, PLAIN),
    "deepseek_v4": (Generation(mixed=False, offset=0), PLAIN),
    # Rows of the cache are dropped by a method of another name, or not at all.
    "minimax": (Generation(select="batch_select_indices", offset=0), PLAIN),
    "xlstm": (Generation(mixed=False, select=""), HeadForm(softcap=0.5)),
    # No key-value cache, or none that is a function of the text alone.
    "recurrent_gemma": (RECOMPUTED, HeadForm(softcap=0.5)),
    "openai-gpt": (RECOMPUTED, PLAIN),
    "rwkv": (RECOMPUTED, PLAIN),
    "dory": (RECOMPUTED, None),  # a factor of its own for each id
}
SEQ2SEQ = ("t5", "bart", "m2m_100", "nllb-moe")
REFUSED: dict[str, dict[str, Any]] = {
    "bert": {"is_decoder": False},
    "roberta": {"is_decoder": False},
    "xlnet": {},
    "xlm": {},
    "cpmant": {},
}
GREEDY = GenerationRequest(sampling=SamplingSettings(greedy=True), max_new_tokens=8, seed=0)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity_warning()


@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_models(kind: str, tokenizer: Tokenizer, make_sequences: Any) -> None:
    network = build(kind)
    model = wrap(network, tokenizer)
    check(network, model, make_sequences(LENGTHS))
    way, form = CAUSAL[kind]
    assert model.scores_padded() and model._generation == way and model.head_form == form


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_encoder_decoders(kind: str, tokenizer: Tokenizer, make_sequences: Any) -> None:
    network = build(kind, seq2seq=True)
    model = wrap(network, tokenizer)
    check(network, model, make_sequences(LENGTHS))
    assert model.scores_padded() and model._generation == Generation()


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_look_ahead_are_refused_at_load(kind: str, tokenizer: Tokenizer, tmp_path: Any) -> None:
    from thack.models.load import load_model

    network = build(kind, **REFUSED[kind])
    with pytest.raises(ModelError, match=rf"{type(network).__name__} is not causal: a later token changes"):
        wrap(network, tokenizer).scores_padded()
    network.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(ModelError, match=r"teacher: .* is not causal"):
        load_model(tmp_path, role="teacher")


@pytest.mark.parametrize("kind", ["bart", "roberta", "minimax", "xlstm", "recurrent_gemma"])
def test_greedy_responses_are_transformers_own(kind: str, tokenizer: Tokenizer, make_sequences: Any) -> None:
    network = build(kind, seed=1)
    prompts = [s.prompt_ids for s in make_sequences([(5, 1), (1, 1), (3, 1), (8, 1)])]
    ours = generate(wrap(network, tokenizer), prompts, GREEDY, examples=range(4))
    width = tokenizer.size
    for prompt, response in zip(prompts, ours, strict=True):
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        written: list[int] = []
        while len(written) < 8 and (not written or written[-1] not in tokenizer.ends.ids):
            with torch.no_grad():
                row = network(input_ids=ids, use_cache=False).logits[0, -1, :width]
            written.append(int(row.argmax()))
            ids = torch.cat((ids, torch.tensor([[written[-1]]])), dim=1)
        assert response.tolist() == written


def test_batches_of_equal_length_score_what_padding_would_change(
    tokenizer: Tokenizer, make_sequences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that counts from the right end of its columns."""

    for seq2seq in (False, True):
        network = build("t5" if seq2seq else "gpt2", seq2seq=seq2seq)
        name = "decoder_input_ids" if seq2seq else "input_ids"

        def widened(
            module: Any, args: Any, kwargs: dict[str, Any], network: Any = network, name: str = name
        ) -> tuple[Any, dict[str, Any]]:
            mask = kwargs.get("attention_mask")
            if mask is not None and not bool(mask.all()):
                kwargs = {**kwargs, name: kwargs[name].roll(1, dims=1)}
            return args, kwargs

        network.register_forward_pre_hook(widened, with_kwargs=True)
        model = wrap(network, tokenizer)
        sequences = make_sequences([(5, 4), (3, 6), (2, 2), (5, 4), (4, 5), (3, 1)])
        with torch.no_grad():
            expected = torch.cat([reference(network, s) for s in sequences])
            torch.testing.assert_close(model(Batch.of(sequences)), expected, atol=1e-5, rtol=1e-5)
        assert not model.scores_padded()
        hidden = model(Batch.of(sequences), project=False)
        torch.testing.assert_close(model.head()(hidden), expected, atol=1e-5, rtol=1e-5)


def test_a_probe_leaves_the_model_as_it_was(tokenizer: Tokenizer, make_sequences: Any) -> None:
    network = build("gpt2").train()
    network.transformer.h[0].eval()
    before = {name: module.training for name, module in network.named_modules()}
    model = wrap(network, tokenizer)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    model.scores_padded()
    assert model.head_form == PLAIN
    probe.best_generation(model, takes_positions=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert all(parameter.grad is None for parameter in network.parameters())
    model.release()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_live_model_in_evaluation_mode_stays_in_it(tokenizer: Tokenizer) -> None:
    network = build("gpt2").eval()
    generate(wrap(network, tokenizer), [np.array([5, 6], np.int32)], GREEDY, examples=[0])
    assert not any(module.training for module in network.modules())


def test_a_head_that_adds_something_for_single_ids_is_not_taken_for_plain(tokenizer: Tokenizer) -> None:
    network = build("bart", seq2seq=True)
    assert wrap(network, tokenizer).head_form == PLAIN
    network.final_logits_bias[0, 7] = 1e-3
    assert wrap(network, tokenizer).head_form is None
