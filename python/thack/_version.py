"""The version of the package, which Cargo.toml names and the extension carries."""

from thack._native import version as __version__

__all__ = ["__version__"]
