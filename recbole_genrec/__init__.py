"""Generative recommenders for RecBole: items as short codes, the next item generated code by code."""

from recbole_genrec.compat import require_recbole

__version__ = "0.1.0"

require_recbole()
