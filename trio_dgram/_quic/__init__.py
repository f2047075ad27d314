"""QUIC: connections of streams and datagrams, on aioquic's connection without I/O.

It is a service: it imports ``_services`` and the layers below it, and only the public module ``quic`` imports it.
"""
