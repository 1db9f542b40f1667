from __future__ import annotations

import ast
import builtins
import errno
from pathlib import Path

import pytest

from recbole_genrec.errors import (
    DiskError,
    MissingFileError,
    MissingPackageError,
    UserError,
    disk_errors,
)

PACKAGE = Path(__file__).parent.parent / "recbole_genrec"
# Exceptions of Python that the package raises itself: no fault of a user makes them.
ALLOWED = {
    "__init__.py": {"AttributeError"},  # Python's protocol for attributes of a module
    "storage.py": {"TypeError"},  # the program wants to save a value that has no plain form
    "trainer/checkpoint.py": {"KeyError"},  # the program saves a checkpoint without an identity
    "semantic_ids/semantic_ids.py": {"RuntimeError"},  # ... or reads codes before it assigns them
    "config/shared.py": {"ValueError"},  # caught by Rule.check, which has the sentence
    "config/settings.py": {"KeyError"},  # the program reads a setting that no property file has
    "data/files.py": {"OSError"},  # caught and translated a few lines below
}


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (UserError, ValueError),
        (MissingFileError, FileNotFoundError),
        (MissingPackageError, ImportError),
        (DiskError, OSError),
    ],
)
def test_every_kind_is_a_user_error_that_says_its_sentence(kind, also):
    error = kind("topk is 0, but has to be at least 1: raise it")
    assert isinstance(error, UserError) and isinstance(error, also)
    assert str(error) == "topk is 0, but has to be at least 1: raise it"


@pytest.mark.parametrize(
    "file",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda file: str(file.relative_to(PACKAGE)),
)
def test_no_other_exception_is_raised_for_a_fault_of_a_user(file):
    """NotImplementedError marks an abstract method; a module catches exceptions of its own."""
    allowed, found = ALLOWED.get(str(file.relative_to(PACKAGE)), set()), set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        found.add(ast.unparse(called))
    builtin = {name for name in found if hasattr(builtins, name)}
    assert builtin - {"NotImplementedError"} == allowed


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENOTDIR])
def test_a_refusal_of_the_disk_names_the_file(number):
    with (
        pytest.raises(DiskError, match=r"^'a\.txt' cannot be read or written"),
        disk_errors("b.txt"),
    ):
        raise OSError(number, "reason", "a.txt")
    with pytest.raises(DiskError, match=r"^'b.txt' .*\(reason\): make room"), disk_errors("b.txt"):
        raise OSError(number, "reason")


@pytest.mark.parametrize("error", [OSError(errno.EPIPE, "reason"), KeyError("a"), UserError("b")])
def test_other_errors_pass_the_disk_unchanged(error):
    with pytest.raises(type(error)) as caught, disk_errors("b.txt"):
        raise error
    assert caught.value is error
