"""Benchmarks, side by side with peers in one run. A claim of speed is a ratio measured here."""
