"""thack push: what is uploaded and what the cards say, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from reporting.hub import Hub, running_hub
from thack import api
from thack.cache import Cache
from thack.config import LoraSettings, PushSettings
from thack.errors import CacheError, DataError, ServerError, UsageError
from thack.models.load import load_model
from thack.training import run_distill
from training.world import build_world, distill_settings

# huggingface_hub sends a file in a way that its HTTP client is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_world(tmp_path_factory.mktemp("world"))
    run_distill(distill_settings(root, root / "run", epochs=1))
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The only address that is spoken to; by plain HTTP, which any server has."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    with running_hub() as found:
        yield found


def settings(world: Path, hub: Hub, **changes: object) -> PushSettings:
    given = PushSettings(model=str(world / "run"), to="org/student", endpoint=hub.url)
    return replace(given, **changes)  # type: ignore[arg-type]


def written(hub: Hub, directory: Path, name: str, kind: str = "models") -> Path:
    """What one would download."""
    for file, content in hub.repo(name, kind).files.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(content)
    return directory


def test_a_model_and_its_cache_arrive_whole_with_their_cards(world: Path, hub: Hub, tmp_path: Path) -> None:
    found = api.push(settings(world, hub, cache=str(world / "cache")))
    assert found.model.files == len(hub.repo("org/student").files) and found.cache is not None
    assert hub.repo("org/student").private and len(hub.repo("org/student").commits) == 1
    assert hub.tokens == {"Bearer hf_of_the_test", ""}  # what is put in storage is signed by its address
    model = load_model(written(hub, tmp_path / "model", "org/student"))
    assert model.fingerprint() == load_model(world / "run" / "model").fingerprint()
    cache = Cache.open(written(hub, tmp_path / "cache", "org/student-cache", "datasets"))
    assert cache.meta.fingerprint == Cache.open(world / "cache").meta.fingerprint
    assert cache.sequences(0).prompt_id == Cache.open(world / "cache").sequences(0).prompt_id
    assert not [name for name in hub.repo("org/student-cache", "datasets").files if "journal" in name or "lock" in name]
    assert hub.puts, "the weights are large: they go by LFS"


def test_the_cards_say_what_is_known(world: Path, hub: Hub) -> None:
    api.push(settings(world, hub, cache=str(world / "cache")))
    card = hub.repo("org/student").files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for words in (
        "## Teacher hacking",
        "proxy (distance to the teacher)",
        "held-out prompts",
        "- cost, seconds in all: ",
    ):
        assert words in card
    assert "golden (distance to the oracle): " in card and "] nats per token at step 5" in card
    assert str(world) not in card, "no path of this machine"
    of_cache = hub.repo("org/student-cache", "datasets").files["README.md"].decode()
    for words in ("dense", "10 sequences", "forward", 'snapshot_download("org/student-cache", repo_type="dataset")'):
        assert words in of_cache


def test_a_push_that_was_refused_uploads_nothing_twice(world: Path, hub: Hub) -> None:
    hub.refuses = 403
    with pytest.raises(ServerError) as caught:
        api.push(settings(world, hub))
    assert "hf auth login" in str(caught.value.hint) and not hub.repo("org/student").files
    before, hub.refuses = list(hub.puts), 0
    api.push(settings(world, hub))
    assert before and hub.puts == before
    assert "model.safetensors" in hub.repo("org/student").files


def test_an_adapter_is_pushed_merged_and_takes_the_place_of_what_was_there(
    world: Path, hub: Hub, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    run_distill(distill_settings(world, tmp_path / "lora", lora=LoraSettings(rank=2), steps=1, eval_data="", oracle=""))
    with pytest.raises(UsageError, match="on this machine alone"):
        api.push(settings(world, hub, model=str(tmp_path / "lora")))
    hub.repos.clear()
    api.push(settings(world, hub))
    repo = hub.repo("org/student")
    repo.files |= {"adapter_config.json": b"{}", "notes.md": b"mine"}
    found = api.push(settings(world, hub, model=str(tmp_path / "lora"), merge=True))
    assert found.model.removed == ("adapter_config.json",) and "notes.md" in repo.files
    merged = load_model(written(hub, tmp_path / "there", "org/student"))
    assert merged.fingerprint() == load_model(tmp_path / "lora").fingerprint()
    assert "adapter of peft" not in repo.files["README.md"].decode()


def test_a_directory_without_a_run_brings_its_own_card(world: Path, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(world / "teacher", tmp_path / "teacher")
    with pytest.raises(DataError, match="without a description"):
        api.push(settings(world, hub, model=str(tmp_path / "teacher")))
    (tmp_path / "teacher" / "README.md").write_text("mine")
    (tmp_path / "teacher" / "weights.bin").write_bytes(b"pickled")
    found = api.push(settings(world, hub, model=str(tmp_path / "teacher")))
    assert hub.repo("org/student").files["README.md"] == b"mine"
    assert found.model.left_out == ("weights.bin",)


def test_what_must_not_be_published_is_refused(world: Path, hub: Hub, tmp_path: Path) -> None:
    api.push(settings(world, hub, public=True))
    assert not hub.repo("org/student").private
    with pytest.raises(UsageError, match="exists and is public"):
        api.push(settings(world, hub))
    shutil.copytree(world / "cache", tmp_path / "cache")
    next((tmp_path / "cache" / "shards").glob("shard-*")).unlink()
    with pytest.raises(CacheError, match="is not complete"):
        api.push(settings(world, hub, cache=str(tmp_path / "cache"), public=True))
    for changes, words in (
        ({"to": "alone"}, "is no repository"),
        ({"to": ""}, "no repository is given"),
        ({"model": ""}, "nothing to push"),
        ({"cache_to": "org/c"}, "and no cache"),
        ({"merge": True}, "nothing to merge"),
    ):
        with pytest.raises(UsageError, match=words):
            api.push(settings(world, hub, **changes))


def test_a_server_that_is_not_there_is_named(world: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ServerError, match="does not take org/student"):
        api.push(settings(world, hub))
    assert not hub.asked
