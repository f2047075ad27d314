"""The kernel layer: a descriptor, its options and memberships, and the calls that move datagrams.

Synchronous: a call that would have to wait raises BlockingIOError. What differs by platform is decided here. It imports
the values and the codecs.
"""
