"""Settings of one run: RecBole's Config with this package's property files and rules."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import ModelType

from recbole_genrec.compat import add_numpy_aliases, recbole_errors
from recbole_genrec.config.models import (
    find_model,
    find_variant,
    is_generative,
    name_of_defaults,
)
from recbole_genrec.config.own_models import (
    check_property_files,
    is_outside,
    path_of,
    property_files,
)
from recbole_genrec.config.reading import (
    RECBOLE_PROPERTIES,
    Loader,
    nearest,
    parse_command_line,
    parse_value,
    properties_folder,
    read_yaml,
)
from recbole_genrec.config.rules import check_settings
from recbole_genrec.errors import UserError, disk_errors
from recbole_genrec.runtime import distributed

# Read by RecBole 1.2.1 although none of its argument lists or property files has them; the last six
# in distributed runs.
OPTIONAL_KEYS = frozenset(
    [
        "encoding",
        "eta",
        "tail_ratio",
        "token_num_threshold",
        "xgb_early_stopping_rounds",
        "cin",
        "contrast",
        "feature_num",
        "has_residual",
        "norm",
        "sim",
        "use_filter",
        "nproc",
        "offset",
        "local_rank",
        "world_size",
        "ip",
        "port",
    ]
)
# Read by RecBole's shared code for some models; the others have no such setting.
_READ_UNSET = frozenset(
    [
        "reg_weight",
        "double_tower",
        "embedding_size",
        "tau",
        "beta",
        "ft_ratio",
        "mask_ratio",
        "convert_token_to_onehot",
    ]
)
# RecBole's POINTWISE sequential models that learn from labels: they need sampled negatives.
_LABEL_MODELS = ("DIN", "DIEN")


class GenRecConfig(Config):
    """All settings of a run.

    Layers, later ones win: RecBole's own property files; in properties/ overall.yaml,
    generative.yaml (for generative models) and model/<Model>.yaml; <Class>.yaml beside a model of
    your own; dataset/<dataset>.yaml; recipe/<model in lower case>_<recipe>.yaml; config files,
    config dict, command line. Two settings are merged with the layers below instead of replacing
    them: load_col of a property file, and eval_args.

    Args:
        model: name, path module:Class, or class; None takes `model` of the layers.
        dataset: name; None takes `dataset` of the layers.
        config_file_list: YAML files.
        config_dict: settings by name; strings are read as on the command line.
        command_line: arguments such as ["--epochs=3", "--topk", "[5,10]"]; sys.argv is never read.
        is_shared: the settings are given to several models. Settings that this model does not know
            and a recipe that it does not have are left out; `left_out` names them.

    Raises:
        MissingFileError: a config file does not exist.
        UserError: an unknown setting, model or recipe, a file that is not a YAML mapping, or
            a setting that breaks its rule or contradicts another.
    """

    parameters: dict[str, list[str]]

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Iterable[str | os.PathLike] | None = None,
        config_dict: dict[str, Any] | None = None,
        command_line: Iterable[str] | None = None,
        is_shared: bool = False,
    ) -> None:
        self._is_shared, self.left_out = is_shared, set[str]()
        self._arguments = parse_command_line(command_line or [])
        files = [*(config_file_list or []), *self._arguments.pop("config_files", "").split()]
        with recbole_errors(), disk_errors():
            super().__init__(model, dataset, files, copy.deepcopy(config_dict))

    def settings(self) -> dict[str, Any]:
        """Return every setting as it was before RecBole rewrote some.

        GenRecConfig(config_dict=config.settings()) gives the same config.
        """
        return copy.deepcopy(self._settings)

    def with_defaults(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of an earlier run; settings that it did not have get defaults."""
        return {**{key: self.internal_config_dict.get(key) for key in self._settings}, **saved}

    def __getitem__(self, item: str) -> Any:
        """Return a setting; None for the settings that RecBole may read unset.

        Raises:
            KeyError: nothing defines a setting of this name.
        """
        final = self.final_config_dict
        if item not in final and self._is_strict and item not in self._known | _READ_UNSET:
            raise KeyError(
                f"the setting {item!r} is read but no property file of {self.model} defines "
                f"it{nearest(item, final)}"
            )
        return final.get(item)

    # --- steps of RecBole's __init__, in their order ---------------------------------------------

    def compatibility_settings(self) -> None:
        """Let RecBole find the names that numpy has dropped."""
        add_numpy_aliases()

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole appends keys of data sets to these lists, which are its module's own.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self) -> type[Loader]:
        return Loader

    def _load_config_files(self, file_list: list[str | os.PathLike]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for file in file_list:
            settings.update(read_yaml(file))
        return settings

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        is_parsed = {
            key: isinstance(value, str) and key not in ("model", "dataset")
            for key, value in config_dict.items()
        }
        return {
            key: parse_value(value) if is_parsed[key] else value
            for key, value in config_dict.items()
        }

    def _load_cmd_line(self) -> dict[str, Any]:
        return self._convert_config_dict(self._arguments)

    def _get_model_and_dataset(self, model, dataset) -> tuple[str, type, str]:
        defaults = {
            **read_yaml(properties_folder() / "overall.yaml"),
            **self.external_config_dict,
        }
        model = defaults["model"] if model is None else model
        model_class = find_model(model) if isinstance(model, str) else model
        return super()._get_model_and_dataset(
            model_class, str(defaults["dataset"] if dataset is None else dataset)
        )

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        name, folder = name_of_defaults(model_class), properties_folder()
        super()._load_internal_config_dict(name, model_class, dataset)
        self._add_layer(folder / "overall.yaml")
        if is_generative(model_class):
            self._add_layer(folder / "generative.yaml")
        self._add_layer(folder / "model" / f"{name}.yaml")
        if is_outside(model_class):
            check_property_files(model_class, self._known_settings())
            for file in property_files(model_class):
                self._add_layer(file)
        self._add_layer(folder / "dataset" / f"{dataset}.yaml")
        self._add_recipe()
        variant = {**self.internal_config_dict, **self.external_config_dict}["model_class"]
        if variant is not None:
            self.model_class = find_variant(variant, model_class)

    def _get_final_config_dict(self) -> dict[str, Any]:
        given = self.external_config_dict
        self._check_names(given)
        final = super()._get_final_config_dict()
        final.update(model=self.model, dataset=self.dataset)
        if isinstance(given.get("eval_args"), dict):
            final["eval_args"] = {**self.internal_config_dict["eval_args"], **given["eval_args"]}
        if "train_neg_sample_args" not in given:
            self._choose_negatives(final)
        final = {
            key: _expand_home(value)
            for key, value in check_settings(self.model_class, final, given).items()
        }
        self._settings = copy.deepcopy(final)
        del self._settings["MODEL_TYPE"]
        if is_outside(self.model_class):
            self._settings["model"] = path_of(self.model_class)
        return final

    def _init_device(self) -> None:
        final = self.final_config_dict
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None and "gpu_id" not in self.external_config_dict:
            final["gpu_id"] = visible
        if distributed.size() > 1:
            distributed.set_device(final)
        elif "local_rank" in final or (
            final["use_gpu"] and str(final["gpu_id"]) and torch.cuda.is_available()
        ):
            super()._init_device()
        else:
            final.update(
                gpu_id="", use_gpu=False, single_spec=True, local_rank=0, device=torch.device("cpu")
            )

    # --- layers ----------------------------------------------------------------------------------

    def _add_layer(self, file: Path) -> None:
        """Put a property file over the layers so far, if it exists."""
        layer = read_yaml(file) if file.is_file() else {}
        if "load_col" in layer:
            layer["load_col"] = {
                **(self.internal_config_dict["load_col"] or {}),
                **layer["load_col"],
            }
        self.internal_config_dict.update(layer)

    def _add_recipe(self) -> None:
        """Put the wanted recipe over the layers so far."""
        recipe = self.external_config_dict.get("recipe", self.internal_config_dict["recipe"])
        files = self._recipes()
        if recipe is None or self._leave_out("recipe", str(recipe) not in files):
            return
        if str(recipe) not in files:
            raise UserError(
                f"the recipe {recipe!r} of {self.model} does not exist: use one of "
                f"{sorted(files)}, or none"
            )
        self._add_layer(files[str(recipe)])

    def _recipes(self) -> dict[str, Path]:
        """Return the model's recipes by name; a model of your own has them beside its module."""
        folders = [properties_folder() / "recipe"]
        if is_outside(self.model_class):
            folders = [file.parent for file in property_files(self.model_class)[-1:]]
        prefix = f"{self.model.lower()}_"
        files = (file for folder in folders for file in folder.glob(f"{prefix}*.yaml"))
        return {file.stem.removeprefix(prefix): file for file in files}

    # --- given settings --------------------------------------------------------------------------

    def _known_settings(self) -> set[str]:
        return (
            set(self.internal_config_dict)
            | OPTIONAL_KEYS
            | {key for keys in self.parameters.values() for key in keys}
        )

    def _check_names(self, given: dict[str, Any]) -> None:
        self._known = self._known_settings()
        # A class given without property files brings settings that nothing declares.
        self._is_strict = not is_outside(self.model_class) or bool(property_files(self.model_class))
        for key in list(given):
            is_unknown = self._is_strict and key not in self._known
            if is_unknown and not self._leave_out(key, is_unknown):
                raise UserError(
                    f"the setting {key!r} is not known to {self.model}{nearest(key, self._known)}: "
                    "correct or remove it"
                )

    def _leave_out(self, key: str, is_foreign: bool) -> bool:
        """Drop a shared setting that only other models have; tell whether it is left out."""
        if self._is_shared and is_foreign:
            self.left_out.add(key)
            self.external_config_dict.pop(key, None)
        return key in self.left_out

    def _choose_negatives(self, final: dict[str, Any]) -> None:
        """Sample negatives for pairwise losses and labels, and none for cross-entropy."""
        input_type = getattr(self.model_class, "input_type", None)
        if final["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            is_cross_entropy = input_type is None and final.get("loss_type") == "CE"
            if is_cross_entropy or (
                input_type is not None
                and input_type.name == "POINTWISE"
                and name_of_defaults(self.model_class) not in _LABEL_MODELS
            ):
                final["train_neg_sample_args"] = None
        elif final["MODEL_TYPE"] in (ModelType.CONTEXT, ModelType.DECISIONTREE):
            # RecBole trains these on rating labels; ranking the catalogue needs negatives, as for
            # its other models.
            final["train_neg_sample_args"] = read_yaml(RECBOLE_PROPERTIES / "overall.yaml")[
                "train_neg_sample_args"
            ]


def _expand_home(value: Any) -> Any:
    """Expand a leading ~, which the shell leaves alone after --key=."""
    is_below_home = isinstance(value, str) and value.startswith("~/")
    return os.path.expanduser(value) if is_below_home else value
