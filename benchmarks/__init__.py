"""Throughput against peers and against the machine: `python -m benchmarks.throughput --json FILE`."""
