"""Models outside this package: classes given by their path, with their property files beside them.

`--model=my_package.my_models:MyTIGER` runs the class MyTIGER of the module my_package.my_models.
Its defaults stand in MyTIGER.yaml beside the module, above the defaults of the model that it
derives from; its recipes stand in mytiger_<recipe>.yaml.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection
from pathlib import Path

from recbole.model.abstract_recommender import AbstractRecommender

from recbole_genrec.config.declare import declared
from recbole_genrec.config.reading import nearest, read_yaml
from recbole_genrec.errors import UserError


def is_outside(model_class: type) -> bool:
    """Tell whether a class belongs neither to this package nor to RecBole."""
    return model_class.__module__.split(".")[0] not in ("recbole", "recbole_genrec")


def path_of(model_class: type) -> str:
    """Return the path of a class, module:Class."""
    return f"{model_class.__module__}:{model_class.__qualname__}"


def import_model(path: str) -> type:
    """Import a recommender by its path; the current folder is searched last.

    Raises:
        UserError: the path leads to no class, the class is no recommender or belongs to this
            package or to RecBole, or it has no property file.
    """
    found = import_class("model", path)
    if not issubclass(found, AbstractRecommender):
        raise UserError(
            f"the model {path!r} is no recommender: derive the class from a model of this package "
            "or of RecBole"
        )
    if not is_outside(found):
        raise UserError(
            f"the model {path!r} belongs to {found.__module__.split('.')[0]}: give its name alone, "
            f"as in --model={found.__name__}"
        )
    file = _property_file(found)
    if file is None or not file.is_file():
        raise UserError(
            f"the model {path!r} has no property file: write its defaults into {str(file)!r}, "
            "which may be empty"
        )
    return found


def module_files(model_class: type) -> list[Path]:
    """Return the files of the modules of a class and its bases outside this package."""
    files = [
        getattr(sys.modules.get(base.__module__), "__file__", None)
        for base in model_class.__mro__
        if issubclass(base, AbstractRecommender) and is_outside(base)
    ]
    return [Path(file) for file in dict.fromkeys(files) if file is not None]


def import_class(kind: str, path: str) -> type:
    """Import a class by its path module:Class; the current folder is searched last.

    Args:
        kind: what the class is, for the errors: "model" or "metric".
        path: the path.

    Raises:
        UserError: the path leads to no class.
    """
    module_name, _, name = path.partition(":")
    if not name.isidentifier() or not all(map(str.isidentifier, module_name.split("."))):
        raise UserError(
            f"the {kind} {path!r} is not a path: write module:Class, as in my_models:MyTIGER"
        )
    module = _import_module(module_name, f"the {kind} {path!r}")
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(
            f"the {kind} {path!r} does not exist, because {module_name} has no class "
            f"{name!r}{nearest(name, classes)}: correct its name"
        )
    return found


def property_files(model_class: type) -> list[Path]:
    """Return the property files of a class and its bases outside this package, bases first."""
    files = [
        _property_file(base)
        for base in reversed(model_class.__mro__)
        if issubclass(base, AbstractRecommender) and is_outside(base)
    ]
    return [file for file in files if file is not None and file.is_file()]


def check_property_files(model_class: type, known: Collection[str]) -> None:
    """Refuse settings of a class outside this package that lack a declaration or a default.

    Args:
        model_class: the class.
        known: the settings that have a default without the class's own property files.

    Raises:
        UserError: the first such setting.
    """
    rules, defaults = declared(model_class), set(known)
    for file in property_files(model_class):
        for key in read_yaml(file):
            if key not in rules and key not in known:
                raise UserError(
                    f"the setting {key!r} of {str(file)!r} is not declared"
                    f"{nearest(key, {*known, *rules})}: declare it in `settings` of "
                    f"{model_class.__name__}, or correct its name"
                )
            defaults.add(key)
    for key in rules:
        if key not in defaults:
            raise UserError(
                f"the setting {key!r} that {model_class.__name__} declares has no default: give "
                f"one in {model_class.__name__}.yaml beside its module"
            )


def _import_module(name: str, wanted: str):
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists and lacks a package of its own
        raise UserError(
            f"{wanted} does not exist, because the module {error.name!r} is neither on "
            f"the Python path nor in {folder!r}: correct its name, or start in its folder"
        ) from None


def _property_file(model_class: type) -> Path | None:
    module = getattr(sys.modules.get(model_class.__module__), "__file__", None)
    return None if module is None else Path(module).with_name(f"{model_class.__name__}.yaml")
