"""UniGRec: everything of one paper."""

from recbole_genrec.model.unigrec.unigrec import UniGRec

__all__ = ["UniGRec"]
