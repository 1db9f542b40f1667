from __future__ import annotations

import pytest

from recbole_genrec.errors import MissingFileError, MissingPackageError, UserError


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (UserError, ValueError),
        (MissingFileError, FileNotFoundError),
        (MissingPackageError, ImportError),
    ],
)
def test_every_kind_is_a_user_error_that_says_its_sentence(kind, also):
    error = kind("topk is 0, but has to be at least 1: raise it")
    assert isinstance(error, UserError) and isinstance(error, also)
    assert str(error) == "topk is 0, but has to be at least 1: raise it"
