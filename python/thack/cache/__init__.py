"""What a teacher knows, on disk: planned, captured, verified, and read in any order.

The names below are imported on first use: `inspect` and `verify` need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thack.cache.exchange.exporting import export_cache
    from thack.cache.exchange.importing import ImportSettings, import_cache
    from thack.cache.format.inspection import inspect
    from thack.cache.format.reader import Cache
    from thack.cache.format.verification import verify
    from thack.cache.sizing.probing import probe

__all__ = ["Cache", "ImportSettings", "export_cache", "import_cache", "inspect", "probe", "verify"]

_MODULES = {
    "Cache": "format.reader",
    "ImportSettings": "exchange.importing",
    "export_cache": "exchange.exporting",
    "import_cache": "exchange.importing",
    "inspect": "format.inspection",
    "probe": "sizing.probing",
    "verify": "format.verification",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
