"""The kernel layer: a descriptor, its options and memberships, and the calls that move datagrams.

It is synchronous: a call that would have to wait raises BlockingIOError. Differences between systems are decided here
and nowhere above. It imports the values and the codecs.
"""
