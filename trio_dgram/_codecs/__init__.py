"""Codecs: bytes of the kernel to values and back, without a descriptor or a clock.

They import the values only.
"""
