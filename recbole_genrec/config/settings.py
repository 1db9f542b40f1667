"""Settings of one run: RecBole's Config with this package's property files, strict about names and contradictions."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import ModelType

from recbole_genrec.compat import add_numpy_aliases, recbole_errors
from recbole_genrec.config.models import find_model, find_variant, is_generative
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

# Read by RecBole 1.2.1 although none of its argument lists or property files holds them (the last
# line: its distributed runs).
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
# Read by RecBole's shared code for the sake of some models; the others have no such setting.
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

    Layers, later ones win: RecBole's own property files; properties/overall.yaml, generative.yaml
    (for models of that kind),
    model/<Model>.yaml, dataset/<dataset>.yaml and recipe/<model in lower case>_<recipe>.yaml of
    this package; config files, config
    dict, command line. Two settings are merged with the layers below instead of replacing them:
    load_col of a property file, and
    eval_args.

    Args:
        model: name or class; None takes `model` of the layers.
        dataset: name; None takes `dataset` of the layers.
        config_file_list: YAML files.
        config_dict: settings by name; strings are read as on the command line.
        command_line: arguments such as ["--epochs=3", "--topk", "[5,10]"]; sys.argv is never read.
        is_shared: the settings are given to several models: those that this model does not know are
            left out, and so is a recipe
            that it does not have; `left_out` names them.

    Raises:
        FileNotFoundError: a config file does not exist.
        ValueError: an unknown setting, model or recipe, a file that is not a YAML mapping, or
            settings that contradict each other.
    """

    def __init__(
        self,
        model=None,
        dataset=None,
        config_file_list=None,
        config_dict=None,
        command_line=None,
        is_shared=False,
    ):
        self._is_shared, self.left_out = is_shared, set()
        self._arguments = parse_command_line(command_line or [])
        files = [*(config_file_list or []), *self._arguments.pop("config_files", "").split()]
        with recbole_errors(), disk_errors():
            super().__init__(model, dataset, files, copy.deepcopy(config_dict))

    def compatibility_settings(self):
        add_numpy_aliases()

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # RecBole appends keys of data sets to these lists, which are its module's own.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return Loader

    def _load_config_files(self, file_list):
        settings: dict[str, Any] = {}
        for file in file_list:
            settings.update(read_yaml(file))
        return settings

    def _convert_config_dict(self, config_dict):
        is_parsed = {
            key: isinstance(value, str) and key not in ("model", "dataset")
            for key, value in config_dict.items()
        }
        return {
            key: parse_value(value) if is_parsed[key] else value
            for key, value in config_dict.items()
        }

    def _load_cmd_line(self):
        return self._convert_config_dict(self._arguments)

    def _get_model_and_dataset(self, model, dataset):
        defaults = {
            **read_yaml(properties_folder() / "overall.yaml"),
            **self.external_config_dict,
        }
        model = defaults["model"] if model is None else model
        model_class = find_model(model) if isinstance(model, str) else model
        return super()._get_model_and_dataset(
            model_class, str(defaults["dataset"] if dataset is None else dataset)
        )

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        folder = properties_folder()
        files = [
            folder / "overall.yaml",
            folder / "model" / f"{model}.yaml",
            folder / "dataset" / f"{dataset}.yaml",
        ]
        if is_generative(model_class):
            files.insert(1, folder / "generative.yaml")
        for file in files:
            if file.is_file():
                self._add_layer(file)
        recipe = self.external_config_dict.get("recipe", self.internal_config_dict["recipe"])
        if recipe is not None and not self._leave_out(
            "recipe", not list((folder / "recipe").glob(f"{model.lower()}_{recipe}.yaml"))
        ):
            self._add_layer(self._recipe_file(folder / "recipe", model.lower(), str(recipe)))
        path = {**self.internal_config_dict, **self.external_config_dict}["model_class"]
        if path is not None:
            self.model_class = find_variant(path, model_class)

    def _leave_out(self, key: str, is_foreign: bool) -> bool:
        """Drop a given setting that other models have and this one has not; says whether it did."""
        if self._is_shared and is_foreign:
            self.left_out.add(key)
            self.external_config_dict.pop(key, None)
        return key in self.left_out

    def _add_layer(self, file: Path) -> None:
        layer = read_yaml(file)
        if "load_col" in layer:
            layer["load_col"] = {
                **(self.internal_config_dict["load_col"] or {}),
                **layer["load_col"],
            }
        self.internal_config_dict.update(layer)

    def _recipe_file(self, folder: Path, model: str, recipe: str) -> Path:
        files = {
            file.stem[len(model) + 1 :]: file for file in sorted(folder.glob(f"{model}_*.yaml"))
        }
        if recipe not in files:
            raise UserError(
                f"the recipe {recipe!r} of {self.model} does not exist: use one of {sorted(files)}, or none"
            )
        return files[recipe]

    def _get_final_config_dict(self):
        external = self.external_config_dict
        self._check_names(external)
        final = super()._get_final_config_dict()
        if isinstance(external.get("eval_args"), dict):
            final["eval_args"] = {**self.internal_config_dict["eval_args"], **external["eval_args"]}
        for key, value in final.items():
            if isinstance(value, str) and value.startswith(
                "~/"
            ):  # after --key= the shell leaves it alone
                final[key] = os.path.expanduser(value)
        if "train_neg_sample_args" not in external:
            self._choose_negatives(final)
        final.update(model=self.model, dataset=self.dataset)
        final = check_settings(self.model_class, final, external)
        self._settings = copy.deepcopy(
            {key: value for key, value in final.items() if key != "MODEL_TYPE"}
        )
        return final

    def _check_names(self, external: dict[str, Any]) -> None:
        self._known = (
            set(self.internal_config_dict)
            | OPTIONAL_KEYS
            | {key for keys in self.parameters.values() for key in keys}
        )
        # A model from elsewhere brings settings that are in no property file.
        self._is_strict = self.model_class.__module__.split(".")[0] in ("recbole", "recbole_genrec")
        for key in list(external):
            is_unknown = self._is_strict and key not in self._known
            if is_unknown and not self._leave_out(key, is_unknown):
                raise UserError(
                    f"the setting {key!r} is not known to {self.model}{nearest(key, self._known)}: correct or remove it"
                )

    def _choose_negatives(self, final: dict[str, Any]) -> None:
        """Sampled negatives go with pairwise losses and labels; cross-entropy over the catalogue takes none."""
        input_type = getattr(self.model_class, "input_type", None)
        if final["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            is_cross_entropy = input_type is None and final.get("loss_type") == "CE"
            if is_cross_entropy or (
                input_type is not None
                and input_type.name == "POINTWISE"
                and self.model not in _LABEL_MODELS
            ):
                final["train_neg_sample_args"] = None
        elif final["MODEL_TYPE"] in (ModelType.CONTEXT, ModelType.DECISIONTREE):
            # RecBole trains these on rating labels; ranking the catalogue wants negatives, as for
            # its other models.
            final["train_neg_sample_args"] = read_yaml(RECBOLE_PROPERTIES / "overall.yaml")[
                "train_neg_sample_args"
            ]

    def _init_device(self):
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

    def settings(self) -> dict[str, Any]:
        """Every setting as it was before RecBole rewrote some: GenRecConfig(config_dict=config.settings()) gives this config again."""
        return copy.deepcopy(self._settings)

    def with_defaults(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Settings of an earlier run; those that did not exist then have their defaults."""
        return {**{key: self.internal_config_dict.get(key) for key in self._settings}, **saved}

    def __getitem__(self, item):
        """The value of a setting; None for those that RecBole may read unset; KeyError for a name that nothing defines."""
        final = self.final_config_dict
        if item not in final and self._is_strict and item not in self._known | _READ_UNSET:
            raise KeyError(
                f"the setting {item!r} is read but no property file of {self.model} defines it{nearest(item, final)}"
            )
        return final.get(item)
