"""The command line: one file per command, each of which parses, calls and prints."""

from thack.cli.app import main

__all__ = ["main"]
