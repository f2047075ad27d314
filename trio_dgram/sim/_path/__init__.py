"""What is between hosts: pipes with their conditions, NATs, and the fabric that joins hosts by them.

It has no clock: callers pass the time. It imports the values and the kernel.
"""
