"""Text to settings: property files, config files and the command line."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import recbole
import yaml

from recbole_genrec.errors import MissingFileError, UserError

RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"
_WORDS = {"true": True, "false": False, "none": None, "null": None, "~": None}


# libyaml, where PyYAML has it, reads the property files ten times as fast.
class Loader(getattr(yaml, "CFullLoader", yaml.FullLoader)):  # type: ignore[misc]
    """YAML as RecBole reads it (1e-3 is a number); yaml.FullLoader itself is left alone."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
        r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def properties_folder() -> Path:
    """Return the folder of this package's property files.

    An installed package contains it; in a checkout it stands beside the package.
    """
    package = Path(__file__).parent.parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def read_yaml(file: str | os.PathLike) -> dict[str, Any]:
    """Read the settings of a YAML file; an empty file has none.

    Raises:
        MissingFileError: there is no such file.
        UserError: the file is not a YAML mapping.
    """
    if not os.path.isfile(file):
        raise MissingFileError(
            f"the config file {str(file)!r} does not exist: check the path given by config_files"
        )
    try:
        content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the config file {str(file)!r} is not valid YAML ({reason}): correct it"
        ) from error
    if content is not None and not isinstance(content, dict):
        raise UserError(
            f"the config file {str(file)!r} holds a {type(content).__name__}, not settings: "
            "write lines `key: value`"
        )
    return content or {}


def parse_command_line(arguments: Iterable[str]) -> dict[str, str]:
    """Read `--key=value` (split at the first =) and `--key value`.

    Raises:
        UserError: an argument without --, a key without a value, or a key with two values.
    """
    given: dict[str, str] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        key, has_value, value = argument[2:].partition("=")
        if not argument.startswith("--") or not key:
            raise UserError(f"the argument {argument!r} is not a setting: write --key=value")
        if not has_value:
            if not remaining or remaining[0].startswith("--"):
                raise UserError(f"the argument {argument!r} has no value: write {argument}=value")
            value = remaining.pop(0)
        if given.setdefault(key, value) != value:
            raise UserError(
                f"--{key} is given twice, as {given[key]!r} and as {value!r}: give it once"
            )
    return given


def parse_value(text: str) -> Any:
    """Read a Python literal, one of true, false, none, null and ~, or a YAML mapping or list.

    Any other text stays text. Nothing is evaluated.
    """
    if text.strip().lower() in _WORDS:
        return _WORDS[text.strip().lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _flow_mapping(text)


def _flow_mapping(text: str) -> Any:
    """Read a mapping or list as YAML writes it, such as {text: tfidf}."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text


def nearest(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean ...?)" with the most similar name, or "" if none is similar."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""
