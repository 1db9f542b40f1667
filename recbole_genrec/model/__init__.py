"""Generative recommenders: one file or folder for each paper, and the parts they share."""
