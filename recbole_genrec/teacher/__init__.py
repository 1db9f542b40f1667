"""Collaborative teachers and their item tables."""
