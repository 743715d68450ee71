"""The model package: reading, running, deciding; only export.py knows torch."""
