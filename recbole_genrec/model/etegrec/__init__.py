"""ETEGRec: everything of one paper."""

from recbole_genrec.model.etegrec.etegrec import ETEGRec

__all__ = ["ETEGRec"]
