"""Benchmarks of `ps`, one file per theme: `python -m benchmarks --help`."""
