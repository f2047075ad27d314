"""Running a scenario many times, each time cancelled at another schedule point.

It imports all other folders.
"""
