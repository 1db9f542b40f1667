"""Speed of this package beside common alternatives: `python -m benchmarks --help`."""
