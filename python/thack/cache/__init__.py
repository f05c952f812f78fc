"""What a teacher knows, on disk: planned, captured, verified, read at random."""

from thack.cache.exchange import export_cache, import_cache
from thack.cache.inspect import inspect
from thack.cache.probe import probe
from thack.cache.reader import Cache
from thack.cache.verify import verify

__all__ = ["Cache", "export_cache", "import_cache", "inspect", "probe", "verify"]
