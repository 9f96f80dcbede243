"""Long trials of the whole system under faults: python run.py campaign --help."""
