"""What is asked for beside the prompt: a server's own defaults have no part in a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from serving.conftest import Make
from serving.server import World, serving
from thack.cache.served.job import capture_served
from thack.config import SamplingSettings
from thack.errors import UsageError
from thack.models.protocol import LanguageModel
from thack.serving.dialects import DIALECTS, Question

SERVERS_OWN: dict[str, dict[str, object]] = {
    # what a server may have been started with, or found in the model's generation_config.json
    "vllm": {"repetition_penalty": 1.05, "presence_penalty": 1.5, "frequency_penalty": 0.5, "top_k": 20, "min_p": 0.1},
    "sglang": {
        "repetition_penalty": 1.05,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.5,
        "top_k": 20,
        "min_p": 0.1,
    },
    "llama.cpp": {
        "repeat_penalty": 1.1,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.5,
        "dry_multiplier": 0.8,
        "mirostat": 2,
        "dynatemp_range": 0.5,
        "top_k": 40,
        "min_p": 0.05,
        "samplers": ["penalties", "dry", "xtc", "typ_p", "top_k", "temperature"],
    },
    "openai": {"presence_penalty": 1.5, "frequency_penalty": 0.5, "top_p": 0.8, "temperature": 0.6},
}
NEUTRAL = {
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "samplers": ["top_k", "top_p", "min_p", "temperature"],
}


class Sent(Exception):
    """The body of a request."""


class Listening:
    def post(self, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        raise Sent(body)


@pytest.mark.parametrize("dialect", SERVERS_OWN)
def test_a_servers_own_sampling_is_overruled(dialect: str) -> None:
    question = Question(model="tiny", prompt_ids=np.ones(3, np.int32), k=5)
    with pytest.raises(Sent) as sent:
        DIALECTS[dialect].generate(Listening(), question)  # type: ignore[arg-type]
    (body,) = sent.value.args
    found = SERVERS_OWN[dialect] | body.get("sampling_params", body)
    off = {"top_k": (0, -1)}
    for name in SERVERS_OWN[dialect]:
        assert found[name] in off.get(name, (NEUTRAL.get(name, 0),)), name


@pytest.mark.parametrize(("name", "value"), [("top_k", 5), ("min_p", 0.1)])
def test_a_sampling_that_a_server_is_not_told_of_is_refused(
    name: str, value: float, make: Make, teacher: LanguageModel
) -> None:
    sampling = SamplingSettings(**{name: value})  # type: ignore[arg-type]
    with serving(World(teacher, "openai")) as url:
        with pytest.raises(UsageError, match=f"sampling.{name} = {value}: an openai server") as refused:
            capture_served(make(url, generate=True, sampling=sampling))
        assert "server.dialect" in (refused.value.hint or "")
