"""The socket: waiting, fairness, closing, implicit binding and events, on a transport.

The first layer that imports Trio. It imports the values, the codecs and the kernel layer. ``datagram_socket`` is the
module to read first.
"""
