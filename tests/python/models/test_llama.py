"""The native decoder against transformers, against itself, and its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.config import ArchitectureSettings
from thack.data.sequence import TokenSequence
from thack.errors import DataError, ModelError, UsageError
from thack.models.batch import Batch
from thack.models.load import load_model, new_decoder
from thack.models.native.architecture import Architecture, UnsupportedArchitecture
from thack.models.native.functions import round_rows
from thack.models.native.llama import Llama

transformers = pytest.importorskip("transformers")

LENGTHS = [(5, 4), (1, 1), (3, 7), (9, 2)]
SHAPE = {
    "vocab_size": 290,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"type": "Llama", "num_key_value_heads": 4, "tie_word_embeddings": False},
    "llama-gqa-tied": {"type": "Llama", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama-biases": {"type": "Llama", "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
    "llama-linear": {"type": "Llama", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "llama-llama3": {
        "type": "Llama",
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
            "rope_theta": 1e3,
        },
    },
    "qwen2": {"type": "Qwen2", "num_key_value_heads": 2},
    "qwen3": {"type": "Qwen3", "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
}


def reference_model(name: str) -> Any:
    """A random transformers model of one variant, with norms and biases that are not ones and zeros."""
    options = dict(VARIANTS[name])
    kind = options.pop("type")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def reference_rows(model: Any, sequences: list[TokenSequence]) -> torch.Tensor:
    """Logits of every response token, one unpadded sequence at a time."""
    rows = []
    for s in sequences:
        ids = torch.from_numpy(np.concatenate([s.prompt_ids, s.response_ids]).astype(np.int64))[None]
        logits = model(input_ids=ids).logits[0]
        rows.append(logits[len(s.prompt_ids) - 1 : -1])
    return torch.cat(rows)


def native_of(model: Any, directory: Path, tokenizer: Any) -> Llama:
    model.save_pretrained(directory)
    tokenizer.save(directory)
    native = load_model(directory)
    assert isinstance(native, Llama)
    return native


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_logits_are_those_of_transformers(name: str, tmp_path: Path, tokenizer: Any, make_sequences: Any) -> None:
    reference, sequences = reference_model(name), make_sequences(LENGTHS)
    native = native_of(reference, tmp_path, tokenizer)
    torch.testing.assert_close(native(Batch.of(sequences)), reference_rows(reference, sequences), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_saved_directory_opens_in_transformers(name: str, tmp_path: Path, tokenizer: Any, make_sequences: Any) -> None:
    native, sequences = native_of(reference_model(name), tmp_path / "a", tokenizer), make_sequences(LENGTHS)
    native.save(tmp_path / "b")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b").eval()
    torch.testing.assert_close(native(Batch.of(sequences)), reference_rows(again, sequences), atol=1e-5, rtol=1e-5)
    assert load_model(tmp_path / "b").fingerprint() == native.fingerprint()
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    assert tokens("def open(path)")["input_ids"] == tokenizer.encode("def open(path)").tolist()
    assert tokens.eos_token_id == tokenizer.eos_id


@pytest.mark.parametrize("name", ["llama-gqa-tied", "qwen3", "llama-biases"])
def test_gradients_are_those_of_transformers(name: str, tmp_path: Path, tokenizer: Any, make_sequences: Any) -> None:
    """Every hand-written backward at once: attention, RoPE, norms, SwiGLU, products, packing."""
    reference, sequences = reference_model(name), make_sequences(LENGTHS)
    native = native_of(reference, tmp_path, tokenizer).train()
    batch = Batch.of(sequences)
    weights = torch.randn(len(batch.labels_N), native.vocab_size)
    (native(batch) * weights).sum().backward()
    (reference_rows(reference, sequences) * weights).sum().backward()
    ours: dict[str, torch.Tensor] = {}
    for name_, parameter in native.named_parameters():
        assert parameter.grad is not None, name_
        ours[name_] = parameter.grad
    theirs = {n: p.grad for n, p in reference.named_parameters()}
    from thack.models.checkpoint import to_transformers

    for key, grad in to_transformers(ours, native.architecture).items():
        torch.testing.assert_close(grad, theirs[key], atol=2e-4, rtol=1e-4, msg=f"{key}: {{}}".format)


@torch.no_grad()
def test_pitfall_10_perturbed_token_moves_only_later_rows(tokenizer: Any, make_sequences: Any) -> None:
    """Row t predicts response token t: it sees the prompt and the response before t, and nothing else."""
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0)
    [s] = make_sequences([(3, 5)])
    before = model(Batch.of([s]))
    for t in range(5):
        changed = s.response_ids.copy()
        changed[t] += 1
        after = model(Batch.of([TokenSequence(example=0, prompt_id="", prompt_ids=s.prompt_ids, response_ids=changed)]))
        moved = (before - after).abs().amax(1) > 1e-7
        assert moved.tolist() == [False] * (t + 1) + [True] * (4 - t)
    assert len(before) == len(s.response_ids)


@torch.no_grad()
def test_pitfall_11_rows_do_not_depend_on_padding_or_order(tokenizer: Any, make_sequences: Any) -> None:
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0)
    sequences = make_sequences(LENGTHS)
    raise_on_all_ranks = model(Batch.of(sequences))
    alone = torch.cat([model(Batch.of([s])) for s in sequences])
    torch.testing.assert_close(raise_on_all_ranks, alone, atol=1e-6, rtol=1e-5)
    backwards = model(Batch.of(sequences[::-1])).split([len(s.response_ids) for s in sequences[::-1]])
    torch.testing.assert_close(torch.cat(backwards[::-1]), alone, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_hidden_times_head_is_logits(tokenizer: Any, make_sequences: Any) -> None:
    model, batch = new_decoder(ArchitectureSettings(hidden_size=16), tokenizer, 0), Batch.of(make_sequences(LENGTHS))
    torch.testing.assert_close(model.head()(model(batch, project=False)), model(batch))


@torch.no_grad()
def test_long_sequences_take_the_other_attention(
    tokenizer: Any, make_sequences: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_decoder(ArchitectureSettings(hidden_size=32, num_kv_heads=2), tokenizer, 0)
    batch = Batch.of(make_sequences(LENGTHS))
    written_out = model(batch)
    monkeypatch.setattr("thack.models.native.llama.WRITTEN_OUT_UP_TO", 0)
    torch.testing.assert_close(model(batch), written_out, atol=1e-6, rtol=1e-5)


def test_same_seed_same_weights(tokenizer: Any) -> None:
    settings = ArchitectureSettings(hidden_size=16, num_heads=2)
    torch.manual_seed(1)
    one = new_decoder(settings, tokenizer, 3).fingerprint()
    torch.manual_seed(2)
    assert new_decoder(settings, tokenizer, 3).fingerprint() == one
    assert new_decoder(settings, tokenizer, 4).fingerprint() != one


def test_dropout_is_drawn_in_training_only(tokenizer: Any, make_sequences: Any) -> None:
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, dropout=0.5), tokenizer, 0)
    batch = Batch.of(make_sequences(LENGTHS))
    assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


def test_pitfall_20_fingerprint_is_of_content(tmp_path: Path, tokenizer: Any) -> None:
    """Not of paths or times; a copy that was touched is the same model."""
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0)
    model.save(tmp_path / "a")
    model.save(tmp_path / "deeper" / "b")
    prints = {load_model(tmp_path / name).fingerprint() for name in ("a", "deeper/b")}
    assert prints == {model.fingerprint()}
    with torch.no_grad():
        model.embedding.weight[3, 3] += 1e-3
    assert model.fingerprint() not in prints


class TestErrors:
    def test_too_long(self, tokenizer: Any, make_sequences: Any) -> None:
        model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, max_positions=8), tokenizer, 0)
        model(Batch.of(make_sequences([(5, 4)])))
        with pytest.raises(DataError, match="9 tokens exceeds the model's 8 positions"):
            model(Batch.of(make_sequences([(5, 5)])))
        with pytest.raises(DataError, match="exceeds"):
            model.start([np.arange(6)], 4)

    def test_empty_prompt(self, make_sequences: Any) -> None:
        with pytest.raises(DataError, match="prompt p0: empty prompt"):
            Batch.of(make_sequences([(0, 2)]))

    def test_widths(self, tokenizer: Any) -> None:
        with pytest.raises(UsageError, match="hidden_size 30"):
            new_decoder(ArchitectureSettings(hidden_size=30), tokenizer, 0)
        with pytest.raises(UsageError, match="num_heads 4"):
            new_decoder(ArchitectureSettings(num_kv_heads=3), tokenizer, 0)

    def test_directories(self, tmp_path: Path, tokenizer: Any) -> None:
        with pytest.raises(ModelError, match="teacher: no such model directory"):
            load_model(tmp_path / "none", role="teacher")
        with pytest.raises(ModelError, match=r"no config\.json"):
            load_model(tmp_path)
        new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0).save(tmp_path)
        weights = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(weights[:100])
        with pytest.raises(ModelError, match="damaged or not safetensors"):
            load_model(tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"no model\.safetensors") as caught:
            load_model(tmp_path)
        assert "save_pretrained(OUT)" in str(caught.value.hint)

    def test_weights_of_another_model(self, tmp_path: Path, tokenizer: Any) -> None:
        for name, layers in (("two", 2), ("three", 3)):
            settings = ArchitectureSettings(hidden_size=16, num_heads=2, num_layers=layers)
            new_decoder(settings, tokenizer, 0).save(tmp_path / name)
        two, three = tmp_path / "two" / "config.json", tmp_path / "three" / "config.json"
        small, large = two.read_text(), three.read_text()
        two.write_text(large)
        with pytest.raises(ModelError, match=r"weights lack model\.layers\.2"):
            load_model(tmp_path / "two")
        three.write_text(small)
        with pytest.raises(ModelError, match="does not name"):
            load_model(tmp_path / "three")
        config = json.loads(small)
        two.write_text(json.dumps({**config, "intermediate_size": 64}))
        with pytest.raises(ModelError, match="does not fit"):
            load_model(tmp_path / "two")

    @pytest.mark.parametrize(
        "change",
        [
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            {"hidden_act": "gelu"},
            {"quantization_config": {"bits": 4}},
            {"architectures": ["GPT2LMHeadModel"]},
        ],
    )
    def test_what_is_not_computed_exactly_is_refused(self, change: dict[str, Any], tokenizer: Any) -> None:
        architecture = Architecture.new(ArchitectureSettings(), 300)
        config = architecture.to_config(eos_id=1, pad_id=0, bos_id=None, dtype=torch.float32)
        with pytest.raises(UnsupportedArchitecture):
            Architecture.read({**config, **change})

    def test_pitfall_13_fewer_embeddings_than_tokens(self, tokenizer: Any) -> None:
        with pytest.raises(ModelError, match="embeddings"):
            Llama(Architecture.new(ArchitectureSettings(), tokenizer.size - 1), tokenizer)


def test_packed_sequences_do_not_talk_to_each_other(tokenizer: Any, make_sequences: Any) -> None:
    """Change one sequence: the others' logits stay, and no gradient of theirs reaches its tokens."""
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, 0)
    sequences = make_sequences(LENGTHS)
    other = make_sequences(LENGTHS, seed=9)[1]
    batch, changed = Batch.of(sequences), Batch.of([sequences[0], other, *sequences[2:]])
    before, after = model(batch), model(changed)
    own = batch.sequence_of_N == 1
    torch.testing.assert_close(before[~own], after[~own], atol=1e-6, rtol=1e-5)
    assert (before[own] - after[own]).abs().max() > 1e-3
    used = {int(i) for s in (sequences[0], *sequences[2:]) for i in (*s.prompt_ids, *s.response_ids)}
    alone = sorted({int(i) for i in (*sequences[1].prompt_ids, *sequences[1].response_ids)} - used)
    (gradient,) = torch.autograd.grad(before[~own].square().sum(), model.embedding.weight)
    assert alone and gradient[alone].abs().max() == 0


def test_rows_that_round_the_number_of_tokens_change_nothing(tokenizer: Any, make_sequences: Any) -> None:
    """The same gradients with and without them."""
    grads = []
    for step in (round_rows, lambda rows: rows):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("thack.models.native.llama.round_rows", step)
            model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, num_kv_heads=1), tokenizer, 0)
            model(Batch.of(make_sequences(LENGTHS))).square().sum().backward()
            grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-4, msg=f"{name}: {{}}".format)


def test_bfloat16_is_as_far_from_float32_as_torch_has_it(tokenizer: Any, make_sequences: Any) -> None:
    """Under autocast our products are bfloat16's: not better, not worse."""
    a = ArchitectureSettings(hidden_size=64, num_heads=2, num_layers=3)
    batch = Batch.of(make_sequences(LENGTHS))
    found = {}
    for way in ("float32", "ours", "torch"):
        with pytest.MonkeyPatch.context() as patch:
            if way == "torch":
                patch.setattr("thack.models.native.functions.HAS_ONEDNN", False)
            model = new_decoder(a, tokenizer, 0)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way != "float32"):
                logits = model(batch)
            logits.float().square().sum().backward()
            assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())
            found[way] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    error = {way: ((found[way] - found["float32"]).norm() / found["float32"].norm()).item() for way in found}
    assert error["ours"] < 0.02 and error["ours"] < 2 * error["torch"] + 1e-3


def test_the_head_of_a_large_vocabulary_is_shared_unless_asked_for() -> None:
    auto, apart = ArchitectureSettings(), ArchitectureSettings(tie_head=False)
    assert [Architecture.new(auto, size).tie_head for size in (1024, 8192, 8193, 49_152)] == [False, False, True, True]
    assert not Architecture.new(apart, 49_152).tie_head
    assert Architecture.new(ArchitectureSettings(tie_head=True), 300).tie_head
