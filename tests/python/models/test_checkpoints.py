"""What a directory may hold beside the usual: a head that the config denies, adapters, other weights and settings."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

import transformers

from thack.config import ArchitectureSettings, LoadSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError, UsageError
from thack.models import checkpoint
from thack.models.batch import Batch
from thack.models.hf.load import wrap
from thack.models.hf.model import HuggingFaceModel
from thack.models.load import load_model, new_decoder
from thack.models.native.llama import Llama

from .architectures import build
from .compat import reference

LENGTHS = [(5, 4), (1, 1), (3, 7)]
TINY = ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2, tie_head=True)


@pytest.fixture
def directory(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A tiny native model with a tied head."""
    new_decoder(TINY, tokenizer, 0).save(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


class Notes:
    """A progress that collects what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def task(self, name: str, total: float | None, unit: str = "") -> Any:
        return nullcontext()


class TestHeadOfItsOwn:
    """config.json says tied, and the file holds another head (merged adapters, resized vocabularies)."""

    @pytest.fixture
    def untied(self, directory: Path) -> Path:
        weights = load_file(directory / "model.safetensors")
        weights["lm_head.weight"] = torch.randn(weights["model.embed_tokens.weight"].shape)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    def test_both_ways_keep_it_and_agree_with_transformers(self, untied: Path, make_sequences: Any) -> None:
        sequences, notes = make_sequences(LENGTHS), Notes()
        native = load_model(untied, role="teacher", progress=notes)
        through = load_model(untied, options=LoadSettings(backend="transformers"))
        assert isinstance(native, Llama) and isinstance(through, HuggingFaceModel)
        assert notes.notes == [f"teacher: {checkpoint.OWN_HEAD}"] and through.facts.notes == (checkpoint.OWN_HEAD,)
        network = transformers.AutoModelForCausalLM.from_pretrained(untied)
        with torch.no_grad():
            expected = torch.cat([reference(network, s) for s in sequences])
            for model in (native, through):
                torch.testing.assert_close(model(Batch.of(sequences)), expected, atol=1e-5, rtol=1e-5)

    def test_the_fingerprint_includes_it(self, untied: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
        prints = {
            load_model(untied, options=LoadSettings(backend=backend)).fingerprint()
            for backend in ("native", "transformers")
        }
        assert len(prints) == 1
        weights = load_file(untied / "model.safetensors")
        weights["lm_head.weight"] += 1
        save_file(weights, untied / "model.safetensors", metadata={"format": "pt"})
        assert load_model(untied).fingerprint() not in prints

    @pytest.mark.parametrize("backend", ["native", "transformers"])
    def test_it_survives_saving(self, untied: Path, tmp_path: Path, backend: Any, make_sequences: Any) -> None:
        model = load_model(untied, options=LoadSettings(backend=backend))
        model.save(tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False
        again, batch = load_model(tmp_path / "again"), Batch.of(make_sequences(LENGTHS))
        assert again.facts.notes == () and again.fingerprint() == model.fingerprint()
        torch.testing.assert_close(again(batch), model(batch), atol=1e-5, rtol=1e-5)

    def test_a_copy_of_the_embedding_stays_tied(self, directory: Path) -> None:
        before = load_model(directory).fingerprint()
        weights = load_file(directory / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        model: Any = load_model(directory)
        assert model.head().weight is model.embedding.weight and model.facts.notes == ()
        through = load_model(directory, options=LoadSettings(backend="transformers"))
        assert model.fingerprint() == before == through.fingerprint()


def test_weights_are_read_and_not_mapped(directory: Path) -> None:
    """What another program writes into the file afterwards does not reach the model, nor end the process."""
    model = load_model(directory)
    path = directory / "model.safetensors"
    expected = load_file(path)["model.norm.weight"].clone()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(100)
    assert isinstance(model, Llama) and torch.equal(model.state_dict()["norm.weight"], expected)
    with pytest.raises(ModelError, match="damaged or not safetensors"):
        load_model(directory)


def test_own_names_under_the_llama_architecture_go_through_transformers(
    tmp_path: Path, tokenizer: Tokenizer, make_sequences: Any
) -> None:
    network = build("exaone")
    network.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    assert "model.embed_tokens.weight" not in load_file(tmp_path / "model.safetensors")
    model, sequences = load_model(tmp_path), make_sequences(LENGTHS)
    with torch.no_grad():
        expected = torch.cat([reference(network, s) for s in sequences])
        torch.testing.assert_close(model(Batch.of(sequences)), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match=r"weights lack model\.embed_tokens"):
        load_model(tmp_path, options=LoadSettings(backend="native"))


@pytest.mark.filterwarnings("ignore")
class TestAdapters:
    @pytest.fixture(params=["llama", "gpt2"])
    def both(self, request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Tokenizer) -> tuple[Any, Path, Path]:
        """A live PeftModel, a directory with its base and its adapter, one with the adapter alone."""
        peft = pytest.importorskip("peft")
        base, alone = tmp_path / "base", tmp_path / "alone"
        build(request.param).save_pretrained(base)
        tokenizer.save(base)
        network = transformers.AutoModelForCausalLM.from_pretrained(base)
        targets = ["q_proj", "down_proj"] if request.param == "llama" else ["c_attn"]
        live = peft.get_peft_model(network, peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
        live.save_pretrained(alone)
        for path in alone.iterdir():
            (base / path.name).write_bytes(path.read_bytes())
        return live.eval(), base, alone

    def test_an_adapter_beside_its_base_is_applied(self, both: Any, make_sequences: Any) -> None:
        live, base, _ = both
        sequences = make_sequences(LENGTHS)
        model: Any = load_model(base)
        with torch.no_grad():
            expected = torch.cat([reference(live, s) for s in sequences])
            torch.testing.assert_close(model(Batch.of(sequences)), expected, atol=1e-4, rtol=1e-4)
            with live.disable_adapter():
                plain = torch.cat([reference(live, s) for s in sequences])
        assert not torch.allclose(expected, plain, atol=1e-2)
        assert model.facts.notes == (f"the adapter in {base} is merged into its base model",)
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_without_peft_it_is_refused(self, both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(ModelError, match=r"holds an adapter.* and peft is not installed[\s\S]*thack\[lora\]"):
            load_model(both[1])

    def test_native_loading_does_not_ignore_it(self, both: Any) -> None:
        with pytest.raises(UsageError, match=r"does not go with .* an adapter"):
            load_model(both[1], options=LoadSettings(backend="native"))

    def test_an_adapter_alone_is_merged_into_the_base_that_it_names(
        self, both: Any, make_sequences: Any, tmp_path: Path
    ) -> None:
        live, base, alone = both
        beside, batch = load_model(base).fingerprint(), Batch.of(make_sequences(LENGTHS))
        with pytest.raises(ModelError, match=r"holds an adapter of its own[\s\S]*thack merge"):
            load_model(alone)
        for path in base.glob("adapter_*"):
            path.unlink()
        model = load_model(alone)
        assert model.fingerprint() == beside and model.facts.notes == (
            f"the adapter in {alone} is merged into its base model {base}",
        )
        with torch.no_grad():
            expected = torch.cat([reference(live, s) for s in make_sequences(LENGTHS)])
            torch.testing.assert_close(model(batch), expected, atol=1e-4, rtol=1e-4)
        change(alone / "adapter_config.json", base_model_name_or_path="../base")  # from the adapter's own directory
        assert load_model(alone).fingerprint() == beside

    def test_a_tokenizer_beside_an_adapter_is_used_with_the_ends_of_its_base(self, both: Any) -> None:
        _, base, alone = both
        for path in base.glob("adapter_*"):
            path.unlink()
        change(base / "generation_config.json", eos_token_id=[1, 7], _from_model_config=False)
        for path in base.glob("tokenizer*.json"):
            (alone / path.name).write_bytes(path.read_bytes())
        change(alone / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
        found = load_model(alone).tokenizer
        assert found.template() is not None and load_model(base).tokenizer.template() is None
        assert 7 in found.ends.ids

    def test_an_adapter_without_what_it_needs_is_refused(self, both: Any) -> None:
        _, base, alone = both
        (base / "adapter_model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
            load_model(base)
        (base / "adapter_config.json").unlink()
        weights = load_file(alone / "adapter_model.safetensors")
        save_file(dict(list(weights.items())[:-1]), alone / "adapter_model.safetensors")
        with pytest.raises(ModelError, match=r"peft cannot load[\s\S]*missing adapter keys"):
            load_model(alone)
        for name, told in (("org/absent", "hf download org/absent"), ("", "base_model_name_or_path")):
            change(alone / "adapter_config.json", base_model_name_or_path=name)
            with pytest.raises(ModelError) as caught:
                load_model(alone)
            assert told in str(caught.value.hint)

    def test_a_live_model_with_an_adapter_saves_what_thack_loads(
        self, both: Any, tmp_path: Path, tokenizer: Tokenizer, make_sequences: Any
    ) -> None:
        live, _, _ = both
        model, batch = wrap(live, tokenizer), Batch.of(make_sequences(LENGTHS))
        with torch.no_grad():
            before = model(batch)
            model.save(tmp_path / "saved")
            assert torch.equal(model(batch), before)  # the live model keeps its adapter
            assert not (tmp_path / "saved" / "adapter_config.json").exists()
            torch.testing.assert_close(load_model(tmp_path / "saved")(batch), before, atol=1e-4, rtol=1e-4)
        assert live.peft_config


class TestOtherWeights:
    def test_a_gguf_file_and_a_directory_of_one(self, tmp_path: Path, directory: Path) -> None:
        path = tmp_path / "gguf" / "model-Q4.gguf"
        path.parent.mkdir()
        path.write_bytes(b"GGUF")
        for given in (path, path.parent):
            with pytest.raises(ModelError, match="GGUF") as caught:
                load_model(given)
            assert "gguf_file='model-Q4.gguf'" in str(caught.value.hint)
        (directory / "model.safetensors").rename(tmp_path / "elsewhere")
        (directory / "model.gguf").write_bytes(b"GGUF")
        for backend in ("native", "transformers"):
            with pytest.raises(ModelError) as caught:
                load_model(directory, options=LoadSettings(backend=backend))
            assert "gguf_file='model.gguf'" in str(caught.value.hint)

    def test_pickles_and_missing_shards(self, directory: Path) -> None:
        weight_map = {"a": "model-1.safetensors", "b": "model.safetensors"}
        index = directory / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError, match=r"no model-1\.safetensors[\s\S]*incomplete: copy the missing file"):
            load_model(directory)
        index.unlink()
        (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"no model\.safetensors[\s\S]*save_pretrained\(OUT\)"):
            load_model(directory)

    def test_a_quantisation_without_its_package(self, directory: Path) -> None:
        options = LoadSettings(quantization='{"quant_method": "torchao", "quant_type": "int8_weight_only"}')
        with pytest.raises(ModelError, match="transformers cannot load") as caught:
            load_model(directory, options=options)
        assert "install the package" in str(caught.value.hint)


SETTINGS = {"temperature": 0.7, "top_p": 0.8, "do_sample": True, "bos_token_id": 3}


class TestWhatTrainingKeeps:
    @pytest.mark.parametrize("backend", ["native", "transformers"])
    def test_generation_config(self, directory: Path, tmp_path: Path, backend: Any, tokenizer: Tokenizer) -> None:
        change(directory / "generation_config.json", **SETTINGS)
        load_model(directory, options=LoadSettings(backend=backend)).save(tmp_path / "again")
        found = json.loads((tmp_path / "again" / "generation_config.json").read_text())
        assert {key: found[key] for key in SETTINGS} == SETTINGS
        assert found["eos_token_id"] in (tokenizer.eos_id, [tokenizer.eos_id])

    @pytest.mark.parametrize("backend", ["native", "transformers"])
    def test_number_format(self, directory: Path, tmp_path: Path, backend: Any) -> None:
        load_model(directory).save(tmp_path / "half", dtype=torch.bfloat16)
        model = load_model(tmp_path / "half", options=LoadSettings(backend=backend))
        assert model.facts.dtype == torch.bfloat16 and next(model.parameters()).dtype == torch.float32
        model.save(tmp_path / "again", dtype=model.facts.dtype)
        found = load_file(tmp_path / "again" / "model.safetensors")
        assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
        config = json.loads((tmp_path / "again" / "config.json").read_text())
        assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"
        assert load_model(tmp_path / "again").fingerprint(full=True) == model.fingerprint(full=True)
        assert load_model(directory).facts.dtype is None
