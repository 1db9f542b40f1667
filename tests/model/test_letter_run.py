from __future__ import annotations

from recbole_genrec.quick_start import run


def test_whole_run(small_settings):
    result = run("LETTER", config_dict=small_settings("LETTER"))
    assert result["semantic_ids"]["collisions_after"] == 0
