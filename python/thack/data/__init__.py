"""Where prompts come from: Python's own standard library, or a file of the user's; and how they become token ids."""

from thack.data.readers import read_records
from thack.data.records import Conversation, Record, prompt_id
from thack.data.splits import split_by_hash
from thack.data.stdlib import TASKS, stdlib_records

__all__ = ["TASKS", "Conversation", "Record", "prompt_id", "read_records", "split_by_hash", "stdlib_records"]
