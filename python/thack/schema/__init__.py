"""Typed values that are written to disk or passed between packages; no torch, no input or output."""
