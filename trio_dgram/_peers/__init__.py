"""The service for many peers on one socket: listeners, channels, connections, exchanges.

It imports ``_services`` and the layers below it.
"""
