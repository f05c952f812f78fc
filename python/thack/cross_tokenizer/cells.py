"""What two vocabularies say of each other: first student tokens, which of them are settled, and cells.

    f(v)        first student token of the student's encoding of the bytes of teacher token v; roles map to roles
    settled(v)  every continuation that the teacher's encoder allows after v leaves f(v) as it is; asked for by token
    c(string)   a string that both have is a cell. One that only the teacher has belongs to the cell of f(v); one that
                only the student has, to that of its first teacher token; and so on, to a string that both have

Continuations are tried up to the first teacher token that ends at or behind the student token that crosses the end of
v, and taken as the end of the text. Longer ones are left out: on real vocabularies nearly every token has one that
changes f(v), but of strings that no text holds (`docs/concepts/cells.md`).

Ids that are no text and have no role have first token −1 and cell −1.
"""

from __future__ import annotations

import io
import json
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from thack.cross_tokenizer.bpe import Bpe
from thack.cross_tokenizer.encoder import Encoder
from thack.errors import CacheError, MismatchError
from thack.files import write_bytes
from thack.reading import parse_json, read_bytes
from thack.schema.cross_tokenizer import CellsFacts
from thack.schema.document import dump, parse


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The comparison of two vocabularies.

    Args:
        first_V_T: int32 [teacher ids] f; −1: none.
        cell_teacher_V_T: int32 [teacher ids] cell of each; −1: none.
        cell_student_V_S: int32 [student ids].
        num_cells: cells are 0 … num_cells − 1.
        facts: of which tokenizers, and the time it took.
        teacher: encoder of the teacher.
        student: encoder of the student.
    """

    first_V_T: np.ndarray
    cell_teacher_V_T: np.ndarray
    cell_student_V_S: np.ndarray
    num_cells: int
    facts: CellsFacts
    teacher: Encoder
    student: Encoder
    _settled: dict[int, bool] = field(init=False, default_factory=dict, compare=False, repr=False)

    def settled(self, ids_N: np.ndarray) -> np.ndarray:
        """bool [N]: which of the teacher's ids settle the first student token; each is worked out once, in some ms."""
        ids_U, place_N = np.unique(ids_N, return_inverse=True)
        new = [int(v) for v in ids_U if int(v) not in self._settled]
        if new:
            found = _settled(self.teacher, self.student, self.first_V_T, np.array(new))
            self._settled.update(zip(new, found.tolist(), strict=True))
        settled_U = np.array([self._settled[int(v)] for v in ids_U], bool)
        return settled_U[place_N].reshape(np.shape(ids_N))

    def can_teacher(self, previous_N: np.ndarray, next_N: np.ndarray) -> np.ndarray:
        """bool [N]: the teacher's encoder turns the bytes of both ids into these two; arrays broadcast."""
        return self.teacher.can(previous_N, next_N)

    def can_student(self, previous_N: np.ndarray, next_N: np.ndarray) -> np.ndarray:
        """bool [N]: the same of the student's encoder."""
        return self.student.can(previous_N, next_N)

    def save(self, path: Path) -> None:
        """Write an .npz file, without the encoders."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, facts=np.frombuffer(json.dumps(dump(self.facts)).encode(), np.uint8), **arrays)
        write_bytes(path, buffer.getvalue())


_ARRAYS = ("first_V_T", "cell_teacher_V_T", "cell_student_V_S")


def load_cells(path: Path, teacher: Bpe, student: Bpe) -> Cells:
    """Read what `Cells.save` wrote.

    Raises:
        CacheError: the file is damaged.
        MismatchError: it is of other tokenizers.
    """
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as content:
            facts = parse(CellsFacts, parse_json(bytes(content["facts"])), str(path))
            arrays = {name: np.array(content[name]) for name in _ARRAYS}
    except (BadZipFile, KeyError, ValueError, zlib.error) as error:
        raise CacheError(f"{path} is damaged ({error})", hint="remove it; it is computed again") from error
    if (facts.teacher, facts.student) != (teacher.fingerprint, student.fingerprint):
        raise MismatchError(f"{path} is of other tokenizers", hint="remove it; it is computed again")
    return Cells(**arrays, num_cells=facts.num_cells, facts=facts, teacher=Encoder(teacher), student=Encoder(student))


def build_cells(teacher: Bpe, student: Bpe) -> Cells:
    """Compare two vocabularies.

    Returns:
        All of it; the same for the same two tokenizers.
    """
    started = time.process_time()
    theirs, ours = Encoder(teacher), Encoder(student)
    roles = role_map(teacher, student)
    first_V_T = ours.first_tokens(theirs)
    for v, u in roles.items():
        first_V_T[v] = u
    cell_teacher_V_T, cell_student_V_S, num_cells = _cells(teacher, student, first_V_T, theirs.first_tokens(ours))
    return Cells(
        first_V_T=first_V_T,
        cell_teacher_V_T=cell_teacher_V_T,
        cell_student_V_S=cell_student_V_S,
        num_cells=num_cells,
        facts=CellsFacts(
            teacher=teacher.fingerprint,
            student=student.fingerprint,
            num_cells=num_cells,
            cpu_s=time.process_time() - started,
        ),
        teacher=theirs,
        student=ours,
    )


def role_map(teacher: Bpe, student: Bpe) -> dict[int, int]:
    """The student's id of the same role for the teacher's ends. A tokenizer without an end of turn uses its EOS."""
    found = {teacher.roles["eos"]: student.roles["eos"]}
    if "turn" in teacher.roles:
        found[teacher.roles["turn"]] = student.roles.get("turn", student.roles["eos"])
    return found


def _settled(teacher: Encoder, student: Encoder, first_V_T: np.ndarray, ids_N: np.ndarray) -> np.ndarray:
    if teacher.bpe.fingerprint == student.bpe.fingerprint:
        same: np.ndarray = first_V_T[ids_N] >= 0
        return same
    asked_V_T = np.full_like(first_V_T, -1)
    asked_V_T[ids_N] = first_V_T[ids_N]
    found = np.empty(len(first_V_T), np.uint8)
    teacher.native.settled(student.native, asked_V_T, found)
    changed = [_changed_by_visible(teacher, student, int(v), int(first_V_T[v])) for v in ids_N]
    settled_N: np.ndarray = found[ids_N].astype(bool) & ~np.array(changed, bool)
    return settled_N


def _changed_by_visible(teacher: Encoder, student: Encoder, v: int, first: int) -> bool:
    """Whether the student splits white space otherwise before a character that is none.

    `\\s+(?!\\S)` does so although no token crosses the end.
    """
    token = teacher.bpe.bytes_V[v]
    if not token or not token[-1:].isspace() or first < 0 or student.encode(token + b"\x01")[0] == first:
        return False
    return bool(teacher.can(np.array(v), teacher.visible).any())


def _cells(
    teacher: Bpe, student: Bpe, first_V_T: np.ndarray, first_V_S: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Follow every string to one that both have; roles last."""
    theirs = {token: v for v, token in enumerate(teacher.bytes_V) if token}
    ours = {token: u for u, token in enumerate(student.bytes_V) if token}

    def root(token: bytes) -> bytes:
        while not (token in theirs and token in ours):
            is_theirs = token in theirs
            first = int(first_V_T[theirs[token]] if is_theirs else first_V_S[ours[token]])
            shorter = (student if is_theirs else teacher).bytes_V[first] if first >= 0 else None
            if shorter is None or len(shorter) >= len(token):
                break  # a byte that the other lacks: a cell of its own
            token = shorter
        return token

    numbers: dict[bytes | int, int] = {}

    def cells_of(bpe: Bpe) -> np.ndarray:
        found = [numbers.setdefault(root(token), len(numbers)) if token else -1 for token in bpe.bytes_V]
        return np.array(found, np.int32)

    cell_teacher_V_T, cell_student_V_S = cells_of(teacher), cells_of(student)
    for v, u in role_map(teacher, student).items():
        cell_teacher_V_T[v] = cell_student_V_S[u] = numbers.setdefault(u, len(numbers))
    return cell_teacher_V_T, cell_student_V_S, len(numbers)
