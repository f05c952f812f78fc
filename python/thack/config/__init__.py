"""Settings: frozen values, read strictly from TOML files and key=value texts."""

from thack.config.strict import describe, from_dict, load, to_dict, to_toml

__all__ = ["describe", "from_dict", "load", "to_dict", "to_toml"]
