"""DTLS: encrypted channels to peers, on ``trio.DTLSEndpoint``.

It is a service: it imports ``_services`` and the layers below it, and only the public module ``dtls`` imports it.
"""
