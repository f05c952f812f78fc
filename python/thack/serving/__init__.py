"""A teacher behind an HTTP server: requests, answers as ids and log-probabilities, and whether it is still the same."""
