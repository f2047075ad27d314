"""Hosts on the real kernel: each has a network namespace, and the fabric of a simulated network forwards between them.

Only tests that confirm a failure on the kernel use it. It imports the values and the simulated kernel.
"""
