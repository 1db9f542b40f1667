"""Generative recommenders for RecBole: items as short codes, generated code by code.

`run`, `compare` and `load` are imported on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from recbole_genrec.errors import MissingPackageError

if TYPE_CHECKING:
    from recbole_genrec.quick_start import compare, load, run

__version__ = "0.2.0.dev0"
__all__ = ["__version__", "compare", "load", "run"]


def _require_recbole() -> None:
    """Raise MissingPackageError with the command that installs RecBole, if it is missing.

    RecBole 1.2.1 requires ray<=2.6.3, which pip cannot install on Python 3.12 and later. RecBole
    itself runs there without ray.
    """
    if importlib.util.find_spec("recbole") is not None:
        return
    options = "" if sys.version_info < (3, 12) else "--no-deps "
    raise MissingPackageError(
        f"RecBole 1.2.1 is not installed in this Python {sys.version_info[0]}."
        f"{sys.version_info[1]}: run `pip install {options}recbole==1.2.1`"
    )


_require_recbole()


def __getattr__(name: str) -> Any:
    if name in __all__:
        from recbole_genrec import quick_start

        return getattr(quick_start, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
