"""The door of the package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

import recbole_genrec
from recbole_genrec import quick_start


@pytest.mark.slow
def test_the_door_opens_on_first_use():
    """Neither torch nor RecBole is imported before a name of quick_start is used."""
    code = (
        "import sys, recbole_genrec; assert not {'torch', 'recbole'} & set(sys.modules); "
        "from recbole_genrec import compare, load, run; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in ("compare", "load", "run"):
        assert getattr(recbole_genrec, name) is getattr(quick_start, name)
        assert name in dir(recbole_genrec)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = recbole_genrec.train


@pytest.mark.parametrize(("version", "options"), [((3, 11), ""), ((3, 12), "--no-deps ")])
def test_missing_recbole_names_the_command(monkeypatch, version, options):
    recbole_genrec._require_recbole()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(ImportError, match=f"run `pip install {options}recbole==1.2.1`"):
        recbole_genrec._require_recbole()
