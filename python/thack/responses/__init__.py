"""Who writes the responses, and when: prompts in, token sequences out."""

from thack.responses.data import Prepared, Report, prepare
from thack.responses.sampler import generate
from thack.responses.store import read_manifest, write_responses

__all__ = ["Prepared", "Report", "generate", "prepare", "read_manifest", "write_responses"]
