"""The commands of ``trio-dgram``: one module each, and what they share.

An edge: it imports any layer, and only ``__main__`` imports it. A command is a :class:`Command` (``command.py``) whose
``run`` takes parsed arguments and a console, so that it runs in a test without a process.
"""
