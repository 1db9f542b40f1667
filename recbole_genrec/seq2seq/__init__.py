"""Histories -> codes of the next item: encoder-decoders and the searches over their codes."""
