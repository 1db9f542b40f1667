"""What this package measures of itself, beside what users would pick instead: `python -m benchmarks --help`."""
