"""Benchmarks: trio_dgram beside what else a user would take, on the same machine in the same run."""
