"""What the services share: sockets, names with several addresses, handlers, and a log that the network cannot flood.

It imports the socket and the layers below it. The services import it, and not each other.
"""
