"""Caches of a teacher behind a server: what it answers is kept, answer by answer, until a shard is complete."""
