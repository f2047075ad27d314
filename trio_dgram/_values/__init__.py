"""Values: addresses, datagrams, events, errors, statistics.

Pure Python without I/O. Every other layer may import it; it imports nothing else of the package.
"""
