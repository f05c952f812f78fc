"""How the report writes numbers: real minuses, no minus before a zero, as many digits as say something."""

from __future__ import annotations

import math

from thack.schema.verdict import Interval


def decimal(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """`−0.05`, with a real minus, and none before a zero.

    Example:
        >>> decimal(-0.001), decimal(-0.25), decimal(0.5, 1, sign=True)
        ('0.00', '−0.25', '+0.5')
    """
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def nats(value: float) -> str:
    """Three decimals; of a small distance three digits, zeros among them.

    Example:
        >>> nats(1.2345), nats(0.00076123)
        ('1.234', '0.000761')
    """
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:#.3g}"


def signed_nats(*values: float) -> list[str]:
    """Differences, with the decimals that the largest of them has by `nats`, so that they can be compared.

    Example:
        >>> signed_nats(-0.00076123), signed_nats(-0.0)
        (['−0.000761'], ['0.000'])
        >>> signed_nats(0.00562, -0.202, 0.213), signed_nats(-0.000315, -0.0286, 0.028)
        (['+0.006', '−0.202', '+0.213'], ['−0.0003', '−0.0286', '+0.0280'])
        >>> signed_nats(float("inf"))
        ['+inf']
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    exponent = int(f"{largest:.2e}".partition("e")[2])
    return [decimal(value, max(3, 2 - exponent), sign=True) for value in values]


def signed_percents(*shares: float) -> list[str]:
    """Shares as percentages, without the sign of percent.

    Example:
        >>> signed_percents(0.069, -0.003)
        ['+6.9', '−0.3']
    """
    return [decimal(100 * share, 1, sign=True) for share in shares]


def percent(share: float | None, *, sign: bool = True) -> str:
    """`+9.3 %`, with a real minus; a dash where there is none."""
    return "–" if share is None else f"{decimal(100 * share, 1, sign=sign)} %"


def percent_interval(interval: Interval) -> str:
    """`[+4.1, +14.8] %`, with real minuses."""
    low, high = signed_percents(*interval)
    return f"[{low}, {high}] %"
