"""Where a model comes from: directories whole and broken, the hub's cache, options of transformers, live models."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from thack.config import ArchitectureSettings, DataSettings, LoadSettings
from thack.data.encode import RecordEncoder
from thack.data.formats import to_record
from thack.data.prepare import prepare
from thack.data.records import RecordRefusal
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError, UsageError
from thack.models.batch import Batch
from thack.models.hf import adapters
from thack.models.hub import locate
from thack.models.load import as_language_model, load_model, new_decoder, share_ids
from thack.models.native.llama import Llama

transformers = pytest.importorskip("transformers")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("model") / "native"
    new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2, max_positions=32), tokenizer, 0).save(path)
    return path


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "copy"))


def add_tokens(directory: Path, *tokens: str) -> None:
    """To the tokenizer of a model, which gets no embeddings for them."""
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    backend.save(str(directory / "tokenizer.json"))


def change(path: Path, **values: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestAddedTokensWithoutEmbeddings:
    """Gemma 3 1B: <image_soft_token> is an id of the tokenizer, and the embeddings end before it."""

    @pytest.fixture(params=["native", "transformers"])
    def lacking(self, request: pytest.FixtureRequest, copy: Path, tokenizer: Tokenizer) -> Path:
        if request.param == "transformers":
            config = transformers.GPT2Config(
                vocab_size=tokenizer.size, n_embd=16, n_layer=1, n_head=2, n_positions=32, eos_token_id=1
            )
            transformers.GPT2LMHeadModel(config).save_pretrained(copy)
        add_tokens(copy, "<image>", "[PAD]")
        change(copy / "tokenizer_config.json", pad_token="[PAD]")
        return copy

    def test_the_model_computes_what_transformers_computes(self, lacking: Path, tmp_path: Path) -> None:
        model = load_model(lacking)
        assert model.tokenizer.size == model.vocab_size and model.tokenizer.pad_id == model.tokenizer.eos_id
        records = [to_record({"prompt": prompt, "response": "(path)"}) for prompt in ("def read", "def")]
        sequences = prepare(DataSettings(), model.tokenizer, need_response=True, records=records).sequences
        ids = [*sequences[0].prompt_ids.tolist(), *sequences[0].response_ids.tolist()]
        assert ids[:-1] == transformers.AutoTokenizer.from_pretrained(lacking)("def read(path)").input_ids
        theirs = transformers.AutoModelForCausalLM.from_pretrained(lacking).eval()
        with torch.no_grad():
            ours = model(Batch.of(sequences))[: len(sequences[0].response_ids)]
            torch.testing.assert_close(ours, theirs(torch.tensor([ids])).logits[0, -1 - len(ours) : -1])
        model.save(tmp_path / "saved")
        assert load_model(tmp_path / "saved").tokenizer.fingerprint() == Tokenizer.load(lacking).fingerprint()

    def test_a_text_with_such_a_token_is_refused_by_name(self, lacking: Path) -> None:
        encoder = RecordEncoder(load_model(lacking).tokenizer)
        rows: list[dict[str, Any]] = [
            {"prompt": "a<image>", "response": "b"},
            {"prompt": "a", "response": "b<image>"},
            {"prompt": "a<image>", "response_ids": [5]},
            {"text": "a<image>"},
        ]
        for found in (*encoder.pairs([to_record(row) for row in rows]), *encoder.prompts([to_record(rows[0])])):
            assert isinstance(found, RecordRefusal) and "has no embedding for '<image>'" in str(found)
        (kept,) = encoder.pairs([to_record({"prompt": "a", "response": "b"})])
        assert isinstance(kept, list)

    def test_an_end_needs_one(self, lacking: Path) -> None:
        change(lacking / "tokenizer_config.json", eos_token="<image>")
        with pytest.raises(ModelError, match="embeddings, its tokenizer"):
            load_model(lacking)

    def test_a_model_that_has_them_shares_the_others(self, lacking: Path, tokenizer: Tokenizer) -> None:
        """The wider one writes and reads no id that the other lacks; a model with another tokenizer keeps its own."""
        settings = ArchitectureSettings(hidden_size=16, num_heads=2)
        narrow, other = load_model(lacking), new_decoder(settings, tokenizer, 0)
        wide = new_decoder(settings, Tokenizer.load(lacking), 0)
        assert wide.tokenizer.size == wide.vocab_size == narrow.vocab_size + 2
        share_ids([wide, narrow, other])
        assert wide.tokenizer.size == narrow.tokenizer.size == narrow.vocab_size
        assert other.tokenizer is tokenizer


class TestHub:
    @pytest.fixture
    def hub(self, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A hub cache that holds tiny/model, as a download would leave it, and no network."""
        constants = pytest.importorskip("huggingface_hub.constants")
        repository = tmp_path / "hub" / "models--tiny--model"
        shutil.copytree(directory, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_a_name_is_its_snapshot_and_the_commit_is_remembered(self, hub: Path) -> None:
        model = load_model("tiny/model")
        assert isinstance(model, Llama)
        assert model.facts.origin == f"tiny/model@{COMMIT}"
        assert load_model(f"tiny/model@{COMMIT}").facts.origin == f"tiny/model@{COMMIT}"

    def test_offline_and_not_there(self, hub: Path) -> None:
        with pytest.raises(ModelError, match=r"teacher: large/model is not on this machine, and HF_HUB_OFFLINE") as e:
            load_model("large/model", role="teacher")
        assert "hf download large/model" in str(e.value)
        with pytest.raises(ModelError, match="tiny/model@v2 is not on this machine"):
            load_model("tiny/model@v2")

    def test_a_directory_of_that_name_wins(self, hub: Path, directory: Path) -> None:
        shutil.copytree(directory, hub / "tiny" / "model")
        assert locate("tiny/model").origin == "tiny/model"

    def test_a_mistyped_directory_is_not_asked_for_on_the_network(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
        (hub / "runs").mkdir()
        for name in ("runs/techer", "techer", "./a/b", "/no/where"):
            with pytest.raises(ModelError, match=f"student: no such model directory: {name}"):
                load_model(name, role="student")

    @pytest.mark.parametrize(
        ("error", "said"),
        [("RepositoryNotFoundError", "neither a directory nor a model"), ("RevisionNotFoundError", "no revision x")],
    )
    def test_what_the_hub_says(self, hub: Path, monkeypatch: pytest.MonkeyPatch, error: str, said: str) -> None:
        from huggingface_hub import errors

        def refuse(*_: object, **__: object) -> None:
            cls = getattr(errors, error)
            raise cls.__new__(cls, "no")

        monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
        with pytest.raises(ModelError, match=said):
            load_model("large/model@x")

    def test_a_hub_out_of_reach(self, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError("connection refused")

        monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
        with pytest.raises(ModelError, match=r"the hub does not give it[\s\S]*connection refused"):
            load_model("large/model")


class TestOptions:
    def test_transformers_gives_the_same_rows_and_fingerprint(self, directory: Path, make_sequences: Any) -> None:
        """A evaluation set or cache made with one of the two is valid for the other."""
        native = load_model(directory)
        theirs = load_model(directory, options=LoadSettings(backend="transformers"))
        assert not isinstance(theirs, Llama)
        batch = Batch.of(make_sequences([(5, 4), (1, 1), (3, 7)]))
        with torch.no_grad():
            torch.testing.assert_close(theirs(batch), native(batch), atol=1e-5, rtol=1e-5)
        assert theirs.fingerprint() == native.fingerprint()

    def test_device_map_and_dtype(self, directory: Path, make_sequences: Any) -> None:
        pytest.importorskip("accelerate")
        model = load_model(directory, options=LoadSettings(device_map="cpu", dtype="bfloat16"))
        assert next(model.parameters()).dtype == torch.bfloat16
        assert model(Batch.of(make_sequences([(2, 3)]))).shape == (3, model.vocab_size)

    def test_quantization_goes_to_transformers_as_it_is(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}

        def pretend(path: Path, **options: Any) -> None:
            seen.update(options)
            raise ValueError("no GPU found, which this quantisation needs")

        monkeypatch.setattr("thack.models.hf.load.AutoModelForCausalLM.from_pretrained", pretend)
        quantization = '{"quant_method": "bitsandbytes", "load_in_4bit": true}'
        options = LoadSettings(quantization=quantization, device_map='{"": 1}')
        with pytest.raises(ModelError, match=r"cannot load[\s\S]*no GPU found"):
            load_model(directory, options=options)
        assert seen["quantization_config"] == {"quant_method": "bitsandbytes", "load_in_4bit": True}
        assert seen["device_map"] == {"": 1}
        assert seen["trust_remote_code"] is False and seen["use_safetensors"] is True

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (LoadSettings(quantization="{oops"), "load.quantization: not JSON"),
            (LoadSettings(dtype="int8"), "not a number format"),
            (LoadSettings(dtype="float31"), "not a number format"),
            (LoadSettings(backend="native", device_map="auto"), "does not go with load.device_map"),
        ],
    )
    def test_nonsense_is_refused(self, directory: Path, options: LoadSettings, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            load_model(directory, options=options)

    def test_native_only(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=290, n_embd=8, n_layer=1, n_head=1, n_positions=8)
        ).save_pretrained(tmp_path)
        tokenizer.save(tmp_path)
        with pytest.raises(ModelError, match="no native decoder for GPT2LMHeadModel"):
            load_model(tmp_path, options=LoadSettings(backend="native"))


class TestBrokenDirectories:
    """Each way in which a directory may be incomplete says so, natively and through transformers."""

    @pytest.mark.parametrize("through", ["native", "transformers"])
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("config.json", None, "no config.json"),
            ("config.json", b"{", "not JSON"),
            ("config.json", b"[1]", "holds list"),
            ("model.safetensors", None, "no (model.)?safetensors"),
            ("model.safetensors", b"\x08\0\0\0\0\0\0\0torn", "damaged|cannot load"),
            ("tokenizer.json", None, "no tokenizer.json"),
            ("tokenizer.json", b"{}", "not a tokenizer"),
        ],
    )
    def test_files(self, copy: Path, through: Any, name: str, content: bytes | None, said: str) -> None:
        (copy / name).unlink()
        if content is not None:
            (copy / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"oracle: .*({said})"):
            load_model(copy, role="oracle", options=LoadSettings(backend=through))

    @pytest.mark.parametrize("through", ["native", "transformers"])
    def test_truncated_weights(self, copy: Path, through: Any) -> None:
        path = copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ModelError, match=r"damaged|cannot load"):
            load_model(copy, options=LoadSettings(backend=through))

    def test_a_shard_is_missing(self, copy: Path) -> None:
        weight_map = {"model.embed_tokens.weight": "model.safetensors", "lm_head.weight": "model-2.safetensors"}
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError, match=r"no model-2\.safetensors"):
            load_model(copy)


class TestLiveModels:
    @pytest.fixture
    def live(self, directory: Path) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(directory)

    def test_a_plain_model_plays_a_role_untouched(self, live: Any, directory: Path, make_sequences: Any) -> None:
        native = load_model(directory)
        model: Any = as_language_model(live)  # it remembers its directory, and so its tokenizer
        assert model.tokenizer.fingerprint() == native.tokenizer.fingerprint()
        assert model.fingerprint() == native.fingerprint()
        batch = Batch.of(make_sequences([(5, 4), (3, 7)]))
        with torch.no_grad():
            torch.testing.assert_close(model(batch), native(batch), atol=1e-5, rtol=1e-5)
        assert live(input_ids=torch.tensor([[5, 6, 7]])).logits.shape[1] == 3
        model.release()
        assert not live.get_output_embeddings()._forward_pre_hooks

    def test_tokenizers_of_every_kind(self, live: Any, directory: Path, tokenizer: Tokenizer) -> None:
        fast = transformers.AutoTokenizer.from_pretrained(directory)
        for given in (tokenizer, fast, directory, str(directory)):
            model = as_language_model(live, given)
            assert model.tokenizer.fingerprint() == tokenizer.fingerprint()
            assert model.tokenizer.eos_id == tokenizer.eos_id

    def test_what_cannot_play_a_role(self, live: Any, directory: Path) -> None:
        assert as_language_model(str(directory)).vocab_size == live.config.vocab_size
        live.config._name_or_path = ""
        with pytest.raises(UsageError, match="the judge does not know its tokenizer"):
            as_language_model(live, role="judge")
        with pytest.raises(UsageError, match="a Linear cannot be the teacher"):
            as_language_model(torch.nn.Linear(2, 2), role="teacher")
        with pytest.raises(UsageError, match="not a fast one"):
            as_language_model(live, object())


def test_what_peft_imports_says_nothing_of_kernels_on_the_hub(caplog: pytest.LogCaptureFixture) -> None:
    told = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with adapters._without_remarks():
        told.warning("a kernel could be fetched")
    assert not caplog.records
    told.warning("another remark")
    assert [record.message for record in caplog.records] == ["another remark"]
