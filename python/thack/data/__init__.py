"""Where prompts come from: Python's own standard library, or a file of the user's; and how they are split."""

from thack.data.readers import read_records
from thack.data.records import Record, prompt_id
from thack.data.splits import split_by_hash
from thack.data.stdlib import TASKS, stdlib_records

__all__ = ["TASKS", "Record", "prompt_id", "read_records", "split_by_hash", "stdlib_records"]
