"""Where prompts come from: text that machines carry, or a file of the user's; and how they become token ids."""

from thack.data.embedded import QUESTIONS, TASKS, embedded_records
from thack.data.readers import read_records
from thack.data.records import Conversation, Record, prompt_id
from thack.data.splits import split_by_hash
from thack.data.stdlib import stdlib_records

__all__ = [
    "QUESTIONS",
    "TASKS",
    "Conversation",
    "Record",
    "embedded_records",
    "prompt_id",
    "read_records",
    "split_by_hash",
    "stdlib_records",
]
