"""Benchmarks that need more than the project itself; ``tapeline bench`` is in ``actors/bench``."""
