"""Item features -> codes: the tokenizers that several models share."""
