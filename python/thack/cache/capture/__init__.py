"""`cache-logits`: a teacher scores responses, and records of what it knows go into shards."""
