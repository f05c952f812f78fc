"""What a teacher knows, on disk: planned, captured, verified, read at random."""

from thack.cache.exchange.transfer import export_cache, import_cache
from thack.cache.format.inspect import inspect
from thack.cache.format.reader import Cache
from thack.cache.format.verification import verify
from thack.cache.sizing.probe import probe

__all__ = ["Cache", "export_cache", "import_cache", "inspect", "probe", "verify"]
