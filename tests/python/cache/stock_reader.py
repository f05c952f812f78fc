"""A shard as a user without thack reads it: by safetensors, and by a reader written from docs/format.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from thack import _native
from thack.cache.format.plan import read_plan
from thack.cache.format.records import decode
from thack.cache.reference import read_reference_shard
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target

SMALL = 1 << 17  # bytes of a shard that the reader in NumPy, which is slow, has to read


def open_with_stock_reader(path: Path) -> None:
    """Read every tensor of a shard by `safe_open`, as a user without thack would."""
    tokens, _, size, _, metadata = _native.verify_shard(path, False)
    with safe_open(path, framework="np") as file:
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118 - not a dict
        assert file.metadata() == metadata
    assert shapes["records"][0] == shapes["response_tokens"][0] == tokens and size == path.stat().st_size


def compare_with_reference(path: Path) -> None:
    """The reader in NumPy gives what Rust's gives of a shard that Rust finds intact; of another plan, it refuses it."""
    plan, number = read_plan(path.parent.parent), int(path.stem.removeprefix("shard-"))
    *_, metadata = _native.verify_shard(path, True)
    expected = plan.metadata(number)
    if any(metadata.get(key) != value for key, value in expected.items()):
        with pytest.raises(ValueError, match=r" is .*, not "):
            read_reference_shard(path, expected)
        return
    shard = read_reference_shard(path, expected)
    reader = _native.CacheReader(path.parent, list(plan.firsts), plan.identity() | plan.layout.metadata())
    order = shard.tensors["sequence"].tolist()
    _, _, prompts, responses, records, realised = reader.read(order, True, bool(plan.minor))
    same(dict(shard.targets), arrays(decode(records, plan.layout, realised if plan.minor else None)))
    np.testing.assert_array_equal(shard.tensors["prompt_tokens"], np.frombuffer(prompts, np.int32))
    np.testing.assert_array_equal(shard.tensors["response_tokens"], np.frombuffer(responses, np.int32))


def arrays(target: Target) -> dict[str, np.ndarray]:
    """A target under the names of the reference."""
    found = {}
    if isinstance(target, DenseTarget):
        found = {"log_probs": target.log_probs_NV.numpy()}
    elif isinstance(target, SampledTarget):
        found = {"ids": target.ids_NK.numpy(), "weights": target.weights_NK.numpy(), "counts": target.counts_N.numpy()}
        found |= {"tau": target.tau_N.numpy(), "entropy": target.entropy_N.numpy()}
    elif isinstance(target, FrozenHeadTarget):
        found = {"mean": target.mean_NH.numpy(), "entropy": target.entropy_N.numpy()}
    else:
        found = {"ids": target.ids_NK.numpy(), "log_probs": target.log_probs_NK.numpy()}
        found |= {} if target.log_tail_N is None else {"log_tail": target.log_tail_N.numpy()}
        at = [tail_N.numpy() for tail_N in target.log_tail_at.values()]
        found["log_tail_at"] = np.stack(at) if at else np.empty((0, len(target)), np.float32)
    return found | ({} if target.realised_logprob_N is None else {"realised": target.realised_logprob_N.numpy()})


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Every number, also those that are NaN."""
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
