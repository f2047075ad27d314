"""Packets, records of their fates, addresses, and random sources.

It imports nothing of the other folders.
"""
