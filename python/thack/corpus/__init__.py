"""Where prompts come from: Python's own standard library, or a file of the user's; and how they are split."""

from thack.corpus.embedded import TASKS, stdlib_records
from thack.corpus.readers import read_records
from thack.corpus.record import Record, prompt_id
from thack.corpus.splits import split_by_hash

__all__ = ["TASKS", "Record", "prompt_id", "read_records", "split_by_hash", "stdlib_records"]
