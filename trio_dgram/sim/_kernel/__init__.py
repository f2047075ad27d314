"""The kernel of a simulated host: sockets, their options, buffers and errors, and the socket table.

It is synchronous and has no clock. It imports the values.
"""
