"""A load-test client for any deployment: `make load`, or `python -m tests.load --help`."""
