"""UNGER: everything of one paper."""

from recbole_genrec.model.unger.unger import UNGER

__all__ = ["UNGER"]
