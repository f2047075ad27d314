"""DTLS: encrypted channels to peers, on ``trio.DTLSEndpoint``. They are services: they import the layers below them and
what ``_peers`` has for all services, and only the public module ``dtls`` imports them.
"""
