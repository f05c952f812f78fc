"""Model directories: config.json, safetensors weights, tokenizer. Weights are never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thack import files
from thack.data.eos import Ends, configured_ends
from thack.data.model_files import model_file, read_object
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError
from thack.models.directory import advice, read_config
from thack.models.native.architecture import Architecture

if TYPE_CHECKING:
    from thack.models.protocol import LanguageModel

INDEX = "model.safetensors.index.json"
SAMPLED = "sample:"  # begins a fingerprint for which not every number was read
_RUNS, _RUN = 64, 64  # of numbers, per tensor
_HALF = {"BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors names them

OWN_HEAD = "config.json ties the head to the embedding, but the weights hold another head, which is used"

# Ours → transformers', inside one layer; fused matrices name their parts.
_LAYER_NAMES = {
    "attention_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
    "output": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_TOP_NAMES = {"embedding": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"}


class OtherNames(ModelError):
    """Weights whose names are not those of the Llama family."""


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json lists."""
    weights: dict[str, Tensor] = {}
    for name in _weight_names(directory):
        path = model_file(directory, name)
        if path is None:
            raise ModelError(f"no {name} in {directory}", hint=advice(directory))
        try:
            weights.update(read_tensors(path))
        except SafetensorError as error:
            raise ModelError(f"{path}: damaged or not safetensors ({error})") from error
    return weights


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file, read in order. A mapped file that another process cuts short ends this one by SIGBUS,
    and on a network file system every page of it is a request of its own.
    """
    return safetensors.torch.load_file(path, backend="pread")


def _weight_names(directory: Path) -> list[str]:
    """model.safetensors, or the shards that the index lists."""
    index = read_object(directory, INDEX)
    if index is None:
        return ["model.safetensors"]
    found = index.get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ModelError(f"{directory / INDEX}: not an index of shards: weight_map does not name files")
    if strange := [name for name in found.values() if Path(name).name != name or "\0" in name]:
        raise ModelError(f"{directory / INDEX}: shard name {strange[0]!r} is not a plain file name")
    return sorted(set(found.values()))


def weights_dtype(directory: Path) -> torch.dtype | None:
    """The number format of all weights on disk, if it is one and not float32. Damaged files are named when read."""
    found: set[str] = set()
    for path in directory.glob("model*.safetensors"):
        with suppress(SafetensorError), safe_open(path, "pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict
    return _HALF.get(found.pop()) if len(found) == 1 else None


def cast_directory(directory: Path, dtype: torch.dtype) -> None:
    """Round the weights of a saved directory to a number format, in the files and in config.json, if it has one."""
    for path in directory.glob("*.safetensors"):
        tensors = read_tensors(path)
        rounded = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        files.write_bytes(path, safetensors.torch.save(rounded, metadata={"format": "pt"}))
    if not (directory / "config.json").is_file():  # an adapter
        return
    config = read_config(directory)
    key = "dtype" if "dtype" in config else "torch_dtype"
    files.write_json(directory / "config.json", {**config, key: str(dtype).removeprefix("torch.")})


def with_own_head(architecture: Architecture, weights: Mapping[str, Tensor]) -> Architecture:
    """`architecture` as the weights have it: a head that differs from a tied embedding is a head of its own.

    It happens when adapters are merged or a vocabulary is resized. transformers keeps such a head, too.
    """
    head, embedding = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if not architecture.tie_head or head is None or embedding is None or torch.equal(head, embedding):
        return architecture
    return replace(architecture, tie_head=False)


def _names(name: str, architecture: Architecture) -> list[tuple[str, int]]:
    """transformers' names for one of our parameters, each with its rows."""
    parts = name.split(".")
    if parts[0] != "blocks":
        return [(f"{_TOP_NAMES[parts[0]]}.{parts[1]}", -1)]
    a = architecture
    rows = {
        "qkv": [a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim, a.num_kv_heads * a.head_dim],
        "gate_up": [a.intermediate_size, a.intermediate_size],
    }.get(parts[2], [-1])
    theirs = [f"model.layers.{parts[1]}.{part}.{parts[3]}" for part in _LAYER_NAMES[parts[2]]]
    return list(zip(theirs, rows, strict=True))


def to_transformers(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Our parameters under transformers' names, fused matrices split; a tied head is left out."""
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "lm_head.weight" and architecture.tie_head:
            continue
        targets = _names(name, architecture)
        sizes = [rows if rows >= 0 else tensor.shape[0] for _, rows in targets]
        for (target, _), part in zip(targets, torch.split(tensor.detach(), sizes), strict=True):
            weights[target] = part
    return weights


def from_transformers(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: Architecture
) -> dict[str, Tensor]:
    """transformers' tensors under our names; missing, surplus and misshapen ones are named."""
    state: dict[str, Tensor] = {}
    left = {name for name in weights if not name.endswith("rotary_emb.inv_freq")}
    if architecture.tie_head:
        left.discard("lm_head.weight")
    for name, ours in expected.items():
        if name == "lm_head.weight" and architecture.tie_head:
            continue
        targets = [target for target, _ in _names(name, architecture)]
        missing = [target for target in targets if target not in weights]
        if missing:
            raise OtherNames(
                f"weights lack {missing[0]}", hint="the directory is incomplete, or config.json is another model's"
            )
        left.difference_update(targets)
        state[name] = torch.cat([weights[target] for target in targets])
        if state[name].shape != ours.shape:
            raise ModelError(
                f"{targets[0]} does not fit config.json",
                details=[f"weights {tuple(state[name].shape)}", f"config  {tuple(ours.shape)}"],
            )
    if left:
        raise ModelError(f"weights hold {len(left)} tensors that config.json does not name, such as {min(left)}")
    if architecture.tie_head:
        state["lm_head.weight"] = state["embedding.weight"]
    return state


def add_ends(directory: Path, ends: Ends) -> None:
    """Let generation_config.json name all ends of a model, besides what transformers wrote there."""
    path = directory / "generation_config.json"
    written = read_object(directory, path.name) or {}
    there = list(configured_ends(written.get("eos_token_id")))
    missing = sorted(ends.ids - {*there})
    if missing:
        files.write_json(path, {**written, "eos_token_id": [*there, *missing]})


def save(
    directory: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    generation_config: Mapping[str, Any],
) -> None:
    """Write a model directory that transformers and vLLM load as it is."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    files.write_bytes(directory / "model.safetensors", data)
    files.write_json(directory / "config.json", dict(config))
    generation = {**generation_config, **tokenizer.ends.generation_config(tokenizer.pad_id)}
    files.write_json(directory / "generation_config.json", generation)
    tokenizer.save(directory)


def fingerprint(architecture: object, weights: Mapping[str, Tensor], *, full: bool) -> str:
    """What is computed: configuration, names and shapes of the weights, and numbers of each tensor.

    `full` hashes all numbers (`sha256:…`); otherwise 64 runs of 64 from end to end of each tensor (`sample:…`).
    A step of any optimizer moves nearly all numbers, so a sample tells two checkpoints of one training apart
    without reading hundreds of gigabytes; what only an edit of a few numbers changes, a full hash finds.
    Numbers count as float32: bfloat16 weights loaded as float32 are the same model.
    """
    names = sorted(weights)
    if full:
        with ThreadPoolExecutor(max_workers=2) as pool:
            digests = list(pool.map(lambda name: _tensor_digest(weights[name]), names))
    else:
        digests = [_tensor_digest(weights[name], _sample(weights[name])) for name in names]
    facts = asdict(architecture) if isinstance(architecture, Architecture) else architecture
    if isinstance(facts, dict):
        facts = {key: value for key, value in facts.items() if key not in ("source", "dropout")}
    content = json.dumps([facts, list(zip(names, digests, strict=True))], sort_keys=True, default=str)
    return ("sha256:" if full else SAMPLED) + hashlib.sha256(content.encode()).hexdigest()


def fingerprint_like(recorded: object, model: LanguageModel) -> str:
    """The fingerprint of `model` that can be compared with a recorded one: sampled or full, as that is."""
    return model.fingerprint(full=not str(recorded).startswith(SAMPLED))


def _sample(tensor: Tensor) -> Tensor:
    """The runs of numbers that stand for a tensor; all of a small one."""
    flat = tensor.detach().reshape(-1)
    if flat.numel() <= _RUNS * _RUN:
        return flat
    return flat.unfold(0, _RUN, (flat.numel() - _RUN) // (_RUNS - 1))[:_RUNS].reshape(-1)


def _tensor_digest(tensor: Tensor, numbers: Tensor | None = None) -> str:
    numbers = tensor.detach() if numbers is None else numbers
    flat = numbers.to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()
    state = hashlib.sha256(f"{tuple(tensor.shape)}".encode())
    state.update(flat.view(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
