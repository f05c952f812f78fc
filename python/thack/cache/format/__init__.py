"""The cache on disk: plan, records, shards, manifest; reading, verifying and inspecting it."""
