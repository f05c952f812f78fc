"""Hidden states as vLLM writes them, through the teacher's norm and head, against direct captures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thack import api
from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.cache.exchange.hidden import import_hidden
from thack.config import ArchitectureSettings, CacheSettings, DataSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError, UsageError
from thack.models.batch import Batch
from thack.models.load import as_language_model, new_decoder
from thack.models.protocol import LanguageModel

SIZE = 264


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def read(path): read the file at path"] * 3, SIZE)


def make_sequences(count: int) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    return [
        TokenSequence(
            example=i,
            prompt_id=f"p{i}",
            prompt_ids=rng.integers(2, SIZE, 2 + i % 3).astype(np.int32),
            response_ids=rng.integers(2, SIZE, 1 + i % 5).astype(np.int32),
        )
        for i in range(count)
    ]


def native(tokenizer: Tokenizer) -> LanguageModel:
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, max_positions=32), tokenizer, seed=1)
    with torch.no_grad():
        model.head().weight.mul_(10)
        model.norm.weight.uniform_(0.5, 2.0)
    return model.eval()


def foreign(tokenizer: Tokenizer, kind: str) -> LanguageModel:
    """A soft cap, a logit scale and padded ids, in transformers' own models."""
    torch.manual_seed(2)
    common: dict[str, Any] = {
        "vocab_size": SIZE + 24,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
    }
    if kind == "gemma2":
        config = transformers.Gemma2Config(**common, final_logit_softcapping=2.0, query_pre_attn_scalar=8)
        model: Any = transformers.Gemma2ForCausalLM(config)
    else:
        common.pop("head_dim")
        model = transformers.CohereForCausalLM(transformers.CohereConfig(**common, logit_scale=0.25))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return as_language_model(model.eval(), tokenizer)


def last_inputs(teacher: LanguageModel, ids: np.ndarray) -> tuple[Tensor, Tensor]:
    """[T, H] before and behind the final norm, for every token of a text."""
    assert isinstance(teacher, nn.Module)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs and inputs[0].shape[-1] == 16:
            seen.append((inputs[0].reshape(-1, 16), output.reshape(-1, 16)))

    handles = [m.register_forward_hook(keep) for m in teacher.modules() if "norm" in type(m).__name__.lower()]
    one = TokenSequence(
        example=0, prompt_id="", prompt_ids=ids[:1], response_ids=np.append(ids[1:], 5).astype(np.int32)
    )
    with torch.no_grad():
        teacher(Batch.of([one]))
    for handle in handles:
        handle.remove()
    before, behind = seen[-1]
    return before[: len(ids)], behind[: len(ids)]


def write_states(
    teacher: LanguageModel, sequences: Sequence[TokenSequence], out: Path, *, normed: bool = False, layer: int = 1
) -> None:
    """As vLLM does: a file for each request, [T, layers, H] in bfloat16 or as given, with a generated id or without."""
    out.mkdir()
    for i, s in enumerate(sequences):
        ids = np.concatenate([s.prompt_ids, s.response_ids])[: None if i % 2 else -1]
        states = last_inputs(teacher, ids)[int(normed)].clone()
        layers = torch.stack([torch.randn_like(states), states], 1)
        layers = layers.flip(1) if layer == 0 else layers
        tensors = {
            "hidden_states": layers if i % 3 else layers[:, -1].contiguous(),
            "token_ids": torch.from_numpy(ids).long(),
        }
        save_file({name: value.contiguous() for name, value in tensors.items()}, out / f"req-{i}.safetensors")


def tensors_of(path: Path) -> list[Tensor]:
    cache = Cache.open(path)
    _, target = cache.targets(range(len(cache)))
    return [value for f in fields(target) if isinstance(value := getattr(target, f.name), Tensor)]


@pytest.mark.parametrize("kind", ["dense", "top-k", "sampled"])
@pytest.mark.parametrize("model", ["native", "gemma2", "cohere"])
def test_states_give_the_records_of_a_direct_capture(
    kind: str, model: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    teacher = native(tokenizer) if model == "native" else foreign(tokenizer, model)
    sequences = make_sequences(7)
    write_states(teacher, sequences, tmp_path / "states", normed=kind == "top-k")
    common: dict[str, Any] = {"kind": kind, "top_k": 12, "sampled": 8, "device": "cpu", "dtype": "float32"}
    direct = capture(CacheSettings(out=tmp_path / "direct", **common), teacher=teacher, sequences=sequences)
    settings = CacheSettings(out=tmp_path / "hidden", hidden_states=str(tmp_path / "states"), **common)
    found = tensors_of(import_hidden(settings, teacher=teacher, sequences=sequences))
    assert Cache.open(settings.out).layout.vocab_size == SIZE, "padded ids are no outcome"
    for one, other in zip(found, tensors_of(direct), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_states_of_another_layer_or_model_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    teacher, sequences = native(tokenizer), make_sequences(4)[1:]
    write_states(teacher, sequences, tmp_path / "layer", layer=0)
    write_states(foreign(tokenizer, "cohere"), sequences, tmp_path / "model")
    for name in ("layer", "model"):
        settings = CacheSettings(out=tmp_path / "cache", hidden_states=str(tmp_path / name), device="cpu")
        with pytest.raises(MismatchError, match="not those of this teacher's last layer"):
            import_hidden(settings, teacher=teacher, sequences=sequences)


def test_what_is_missing_is_counted_and_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    teacher, sequences = native(tokenizer), make_sequences(5)
    write_states(teacher, sequences[:4], tmp_path / "states")
    settings = CacheSettings(out=tmp_path / "cache", hidden_states=str(tmp_path / "states"), device="cpu")
    with pytest.raises(DataError, match=r"no hidden states for 1 of 5 sequences\n.*p4"):
        import_hidden(settings, teacher=teacher, sequences=sequences)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.safetensors file"):
        import_hidden(CacheSettings(hidden_states=str(tmp_path / "empty")), teacher=teacher, sequences=sequences)
    save_file({"token_ids": torch.arange(4), "hidden_states": torch.zeros(3, 2)}, tmp_path / "empty" / "a.safetensors")
    with pytest.raises(DataError, match="do not match"):
        import_hidden(CacheSettings(hidden_states=str(tmp_path / "empty")), teacher=teacher, sequences=sequences)


def own_responses(teacher: LanguageModel, count: int) -> list[TokenSequence]:
    """Responses that the teacher finds likely: its first choices."""
    found = []
    for s in make_sequences(count):
        ids = s.prompt_ids
        for _ in range(3):
            asked = TokenSequence(example=0, prompt_id="", prompt_ids=ids, response_ids=np.array([2], np.int32))
            with torch.no_grad():
                ids = np.append(ids, teacher(Batch.of([asked]))[0, 2:SIZE].argmax().int() + 2).astype(np.int32)
        found.append(replace(s, response_ids=ids[len(s.prompt_ids) :]))
    return found


@pytest.mark.parametrize("kind", ["gemma2", "cohere"])
@pytest.mark.parametrize("normed", [False, True])
def test_a_head_alone_gives_the_same_records(kind: str, normed: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its other layers are never read: they are damaged here."""
    teacher = foreign(tokenizer, kind)
    sequences = own_responses(teacher, 6)
    write_states(teacher, sequences, tmp_path / "states", normed=normed)
    teacher.save(tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    torn = {name: w.fill_(torch.nan) if ".layers.1." in name else w for name, w in weights.items()}
    assert sum(w.isnan().all() for w in torn.values()) > 5
    save_file(torn, tmp_path / "teacher" / "model.safetensors", {"format": "pt"})
    common: dict[str, Any] = {"kind": "dense", "device": "cpu", "dtype": "float32"}
    direct = capture(CacheSettings(out=tmp_path / "direct", **common), teacher=teacher, sequences=sequences)
    settings = CacheSettings(
        out=tmp_path / "hidden",
        hidden_states=str(tmp_path / "states"),
        teacher=str(tmp_path / "teacher"),
        head_only=True,
        **common,
    )
    cache = Cache.open(import_hidden(settings, sequences=sequences))
    for one, other in zip(tensors_of(cache.directory), tensors_of(direct), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    assert cache.meta.teacher.startswith("head:sample:") and import_hidden(settings, sequences=sequences)


def test_states_of_nothing_are_refused_by_a_head_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    teacher = foreign(tokenizer, "cohere")
    sequences = own_responses(teacher, 6)
    write_states(teacher, sequences, tmp_path / "states", layer=0)
    teacher.save(tmp_path / "teacher")
    settings = CacheSettings(
        out=tmp_path / "c", hidden_states=str(tmp_path / "states"), teacher=str(tmp_path / "teacher"), head_only=True
    )
    with pytest.raises(MismatchError, match="no better than chance"):
        import_hidden(settings, sequences=sequences)
    with pytest.raises(UsageError, match="head_only = true"):
        api.cache_logits(replace(settings, hidden_states="", data=DataSettings(path="pairs.jsonl")))
