"""Interactions -> histories -> batches."""
