"""Processes, precision and memory."""
