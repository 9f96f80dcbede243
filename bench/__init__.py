"""Measurements: python run.py bench. They are no tests: a machine that is busy makes them slow, not wrong."""
