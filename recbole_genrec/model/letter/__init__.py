"""LETTER: everything of one paper."""

from recbole_genrec.model.letter.letter import LETTER

__all__ = ["LETTER"]
