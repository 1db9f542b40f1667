"""What a run leaves: record, users' outcomes, table, significance."""
