"""Services for many peers on one socket: listeners, channels per peer, and connections.

They import the socket and the layers below it.
"""
