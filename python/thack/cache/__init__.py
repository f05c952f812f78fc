"""What a teacher knows, on disk: planned, captured, verified, read at random."""

from thack.cache.reader import Cache

__all__ = ["Cache"]
