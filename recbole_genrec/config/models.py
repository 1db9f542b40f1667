"""Names to classes: models of this package, models of RecBole, and classes given by their path."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from recbole.utils import get_model

from recbole_genrec.compat import count_every_interaction
from recbole_genrec.config.own_models import import_model, is_outside
from recbole_genrec.config.reading import RECBOLE_PROPERTIES, nearest, properties_folder
from recbole_genrec.errors import UserError


def find_model(name: str) -> type:
    """Return the class of a model of this package or of RecBole, or of a path module:Class.

    Raises:
        UserError: there is no model of this name, or the path leads to none.
    """
    if ":" in name:
        return import_model(name)
    if name.isidentifier():
        module = f"recbole_genrec.model.{name.lower()}"
        if importlib.util.find_spec(module):
            found = getattr(importlib.import_module(module), name, None)
            # Every recommender has an input type, and nothing else in that folder has.
            if isinstance(found, type) and hasattr(found, "input_type"):
                return found
    names = _names_with_properties() | {"Random"}  # RecBole's one model without a property file
    # RecBole's look-up of a name that it does not have imports packages that it does not require.
    if name in names:
        return count_every_interaction(get_model(name)) if name == "Pop" else get_model(name)
    raise UserError(
        f"the model {name!r} is not known{nearest(name, names)}: "
        "use a model of this package or of RecBole, or module:Class for one of your own"
    )


def name_of_defaults(model_class: type) -> str:
    """Return the name of the model whose property files a class starts from.

    It is the class itself, or the nearest of its bases in this package or in RecBole that has a
    property file.
    """
    names = _names_with_properties()
    inside = (base.__name__ for base in model_class.__mro__ if not is_outside(base))
    return next((name for name in inside if name in names), model_class.__name__)


def _names_with_properties() -> set[str]:
    folders: tuple[Path, ...] = (properties_folder(), RECBOLE_PROPERTIES)
    return {file.stem for folder in folders for file in (folder / "model").glob("*.yaml")}


def is_generative(model_class: type) -> bool:
    """Tell whether a class is a generative recommender.

    Models stand above this module in the order of imports; their base class is known by its path.
    """
    return any(base.__module__ == "recbole_genrec.model.abstract" for base in model_class.__mro__)


def find_variant(path: object, model_class: type) -> type:
    """Return the subclass of a model that the setting `model_class` names.

    Only this package is imported from, since recipes and checkpoints may come from elsewhere.

    Args:
        path: "module:Class".
        model_class: the model.

    Raises:
        UserError: the path is no class of this package, or no subclass that has the model's
            settings.
    """
    module, _, name = str(path).partition(":")
    is_own = module.split(".")[0] == "recbole_genrec"
    try:
        found = getattr(importlib.import_module(module), name, None) if is_own else None
    except ModuleNotFoundError:
        found = None
    # A variant of LETTER is a subclass of TIGER too, but needs LETTER's settings.
    if (
        not isinstance(found, type)
        or not issubclass(found, model_class)
        or name_of_defaults(found) != name_of_defaults(model_class)
    ):
        raise UserError(
            f"model_class is {path!r}, but has to name a variant of {model_class.__name__} in "
            "this package, as in recbole_genrec.module:Class: correct it, or give your own class "
            "by --model=module:Class"
        )
    return found
