"""The network as programs see it: the clock, hosts, names, and sockets for Trio.

It imports the folders above: values, trace, kernel, path.
"""
