"""The machine and the process: threads, devices, ranks, signals, progress. Nothing here knows of models."""
