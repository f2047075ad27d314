"""Codecs: bytes of the kernel in, values out, and back; no descriptor, no clock.

It imports the values only.
"""
