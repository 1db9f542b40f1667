"""Item features -> codes: what several models share."""
