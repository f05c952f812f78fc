"""Published losses between two tokenizers straight from their definitions, in float64, by loops: nothing shared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Rows = list[list[int]]


def chunks(theirs: Sequence[bytes], ours: Sequence[bytes]) -> list[tuple[list[int], list[int]]]:
    """(teacher rows, student rows) of each chunk. An end is a unit of one byte that no text holds."""
    found: list[tuple[list[int], list[int]]] = []
    rows: tuple[list[int], list[int]] = ([], [])
    a = b = 0
    for _ in range(len(theirs) + len(ours)):
        length_a = sum(len(t) for t in theirs[:a])
        length_b = sum(len(t) for t in ours[:b])
        if length_a == length_b and rows[0]:
            found.append(rows)
            rows = ([], [])
        if a < len(theirs) and length_a <= length_b:
            rows[0].append(a)
            a += 1
        else:
            rows[1].append(b)
            b += 1
    return [*found, rows]


def alm(p_M: Tensor, q_N: Tensor, parts: list[tuple[list[int], list[int]]], temperature: float) -> Tensor:
    """Of realised probabilities: Σ over chunks."""
    total = torch.zeros((), dtype=torch.float64)
    for teacher, student in parts:
        p = p_M[teacher].prod() ** (1 / temperature)
        q = q_N[student].prod() ** (1 / temperature)
        total = total + temperature * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    return total


def sorted_l1(p_V: Tensor, q_V: Tensor) -> Tensor:
    """Of one pair of rows, with zeros behind the shorter one."""
    a, b = sorted(p_V, reverse=True), sorted(q_V, reverse=True)
    zero = torch.zeros((), dtype=torch.float64)
    a, b = ([*x, *[zero] * (max(len(a), len(b)) - len(x))] for x in (a, b))
    return torch.stack([(x - y).abs() for x, y in zip(a, b, strict=True)]).sum()


def gold(
    p_MV: Tensor,
    q_NV: Tensor,
    ids_M: Sequence[int],
    ids_N: Sequence[int],
    parts: list[tuple[list[int], list[int]]],
    equal: dict[int, int],
    kind: str,
) -> Tensor:
    """Σ over chunks; `equal` maps the teacher's ids to the student's of the same string."""
    total = torch.zeros((), dtype=torch.float64)
    h = len(equal) / p_MV.shape[1]
    for teacher, student in parts:
        p_V, q_V = p_MV[teacher[0]], q_NV[student[0]]
        for m in teacher[1:]:
            p_V = p_V * p_MV[m, ids_M[m]]
        for n in student[1:]:
            q_V = q_V * q_NV[n, ids_N[n]]
        for v, u in equal.items():
            p, q = p_V[v].clamp_min(1e-8), q_V[u].clamp_min(1e-8)
            middle = (p + q) / 2
            terms = {
                "forward_kl": p * (p / q).log(),
                "reverse_kl": q * (q / p).log(),
                "jsd": (p * (p / middle).log() + q * (q / middle).log()) / 2,
            }
            total = total + h * terms[kind]
        others_p = torch.stack([p_V[v] for v in range(len(p_V)) if v not in equal])
        others_q = torch.stack([q_V[u] for u in range(len(q_V)) if u not in equal.values()])
        total = total + (1 - h) * sorted_l1(others_p, others_q)
    return total
