"""Running a scenario many times: each time cancelled at another schedule point, or with fewer choices of a failing run.

It imports all other folders.
"""
