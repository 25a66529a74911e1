"""A census of Python's standard library: one task for each source file. Run it: `python -m examples.census`."""
