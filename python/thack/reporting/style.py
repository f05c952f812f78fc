"""How figures look, whatever the user's matplotlibrc says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from thack.errors import UsageError
from thack.reporting.colours import GRID, INK, MUTED

INSTALL = "pip install 'thack[plot]'"
SIZE = (4.2, 3.1)  # inches; at 96 px per inch that is a phone's width, so that text stays legible there
SMALL = (3.4, 2.7)  # for three beside each other on a wide page
WIDE = 5.4  # inches: for rows with long names
_STYLE: Mapping[str, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.edgecolor": MUTED.light,
    "axes.labelcolor": INK.light,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID.light,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "xtick.labelcolor": MUTED.light,
    "ytick.labelcolor": MUTED.light,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK.light,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "lines.linewidth": 1.6,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "thack",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save figures within this.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # an extra, and slow to import
    except ImportError as error:
        raise UsageError("figures need matplotlib", hint=INSTALL) from error
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's own fonts show the text
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # its keys are a literal of every setting
        yield


def available() -> bool:
    """Whether matplotlib can be imported."""
    try:
        import matplotlib  # noqa: F401 - an extra, and slow to import
    except ImportError:
        return False
    return True
