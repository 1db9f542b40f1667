"""Names of items: unique codes, tokens and tries."""
