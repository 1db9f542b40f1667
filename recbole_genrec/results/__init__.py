"""Results of runs: records, per-user outcomes, tables and significance."""
