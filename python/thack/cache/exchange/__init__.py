"""Import and export: other tools' log-probs to a cache, and a cache to their files."""
