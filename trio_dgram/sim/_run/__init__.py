"""Running a scenario: determinism, virtual time, and the limits that end a run.

It imports the network and the folders above it.
"""
