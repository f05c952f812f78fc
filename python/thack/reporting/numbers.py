"""How the report writes numbers: real minuses, no minus before a zero, as many digits as say something."""

from __future__ import annotations

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


def signed_nats(value: float) -> str:
    """A difference: `nats` with a real minus, or a plus.

    Example:
        >>> signed_nats(-0.00076123), signed_nats(1.2345), signed_nats(-0.0)
        ('−0.000761', '+1.234', '+0.000')
    """
    return f"{'−' if value < 0 else '+'}{nats(abs(value))}"


def signed_nats_interval(interval: Interval) -> str:
    """Of a difference: both ends with the decimals of the larger one, as `signed_nats` has them.

    Example:
        >>> signed_nats_interval((0.0916, 0.276)), signed_nats_interval((-0.0012, 0.01234))
        ('[+0.092, +0.276]', '[−0.0012, +0.0123]')
    """
    exponent = int(f"{max(map(abs, interval)):.2e}".partition("e")[2])
    digits = max(3, 2 - exponent)
    low, high = (decimal(end, digits, sign=True) for end in interval)
    return f"[{low}, {high}]"


def percent(share: float | None, *, sign: bool = True) -> str:
    """`+9.3 %`, with a real minus; a dash where there is none."""
    return "–" if share is None else f"{decimal(100 * share, 1, sign=sign)} %"


def percent_interval(interval: Interval) -> str:
    """`[+4.1, +14.8] %`, with real minuses."""
    low, high = (decimal(100 * end, 1, sign=True) for end in interval)
    return f"[{low}, {high}] %"
