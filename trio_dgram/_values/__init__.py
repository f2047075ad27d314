"""Values: addresses, datagrams, events, errors, statistics, and the checks of arguments.

Pure Python without I/O. Every other layer may import it; it imports nothing else of the package.
"""
