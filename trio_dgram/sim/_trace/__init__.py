"""The trace of a network, and its forms: text, pictures, capture files.

It imports the values.
"""
