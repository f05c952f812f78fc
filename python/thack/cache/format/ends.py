"""ends.json of a cache: which ids ended its responses, and how long they might get.

It lets others tell a finished response from a truncated one without the teacher's tokenizer.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from thack import _native
from thack.cache.format.plan import SHARDS, CachePlan
from thack.data.eos import EndCounts, Ends
from thack.errors import MismatchError
from thack.files import canonical_json
from thack.reading import read_json
from thack.schema.cache import ResponseEnds

NAME = "ends.json"
_COUNTED = 4096  # responses at most: a cache may hold 10⁸


def write_ends(directory: Path, ends: Ends, maximum: int) -> None:
    """Write ends.json, unless it is there. Every rank writes the same."""
    found = ResponseEnds(
        eos=ends.eos, turn=ends.turn, others=tuple(sorted(ends.others)), behind_turn=ends.behind_turn, maximum=maximum
    )
    with suppress(MismatchError):  # an earlier version of the job was first
        _native.publish(directory / NAME, canonical_json(found.dump()))


def read_ends(directory: Path) -> tuple[Ends, int] | None:
    """The ends of a cache's responses, and their maximum length; None if the cache does not say."""
    path = directory / NAME
    if not path.is_file():
        return None
    found = ResponseEnds.parse(read_json(path), str(path))
    ends = Ends(eos=found.eos, turn=found.turn, others=frozenset(found.others), behind_turn=found.behind_turn)
    return ends, found.maximum


def count_ends(directory: Path, plan: CachePlan) -> EndCounts | None:
    """How the responses of a complete cache end, by its first few thousand; None if it does not say what an end is."""
    found = read_ends(directory)
    if found is None:
        return None
    ends, maximum = found
    responses = first_responses(directory, plan)
    return EndCounts.of(responses, ends, maximum=maximum or max(map(len, responses)))


def first_responses(directory: Path, plan: CachePlan) -> list[np.ndarray]:
    """int32 ids of the first few thousand responses of a complete cache."""
    expected = plan.identity() | plan.layout.metadata()
    reader = _native.CacheReader(directory / SHARDS, list(plan.firsts), expected)
    positions = range(min(plan.num_sequences, _COUNTED))
    packed, _, _, responses, *_ = reader.read(positions, False)
    lengths = np.frombuffer(packed, np.int64).reshape(4, -1)[3]
    return np.split(np.frombuffer(responses, np.int32), np.cumsum(lengths)[:-1])
