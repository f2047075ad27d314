"""The parts of the pytest plugin: checks before a test, runs under many seeds, reports of failed tests.

Only ``pytest_plugin.py`` imports it. Nothing here imports the simulator before a test has used it.
"""
