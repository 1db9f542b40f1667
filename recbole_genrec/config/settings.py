"""Settings of one run: RecBole's Config with this package's property files, strict about names and contradictions."""

from __future__ import annotations

import ast
import copy
import difflib
import importlib
import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import recbole
import torch
import yaml
from recbole.config import Config
from recbole.utils import ModelType, get_model

from recbole_genrec.compat import add_numpy_aliases, count_every_interaction
from recbole_genrec.config.rules import check_rules
from recbole_genrec.errors import MissingFileError, UserError
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
_WORDS = {"true": True, "false": False, "none": None, "null": None, "~": None}
_RECBOLE_PROPERTIES = Path(recbole.__file__).parent / "properties"


class _Loader(yaml.FullLoader):
    """YAML as RecBole reads it (1e-3 is a number), without changing yaml.FullLoader for everybody."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
        r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def properties_folder() -> Path:
    """The folder of this package's property files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def parse_command_line(arguments: Iterable[str]) -> dict[str, str]:
    """Read `--key=value` (split at the first =) and `--key value`.

    Raises:
        ValueError: an argument without --, a key without a value, or a key with two values.
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


def find_model(name: str) -> type:
    """The class of a model of this package or of RecBole.

    Raises:
        ValueError: there is no model of this name.
    """
    if name.isidentifier():
        module = f"recbole_genrec.model.{name.lower()}"
        if importlib.util.find_spec(module):
            found = getattr(importlib.import_module(module), name, None)
            if hasattr(
                found, "input_type"
            ):  # as every recommender has, and nothing else in that folder
                return found
    folders = (properties_folder(), _RECBOLE_PROPERTIES)
    # RecBole's Random is its one model without a property file.
    names = sorted(
        {file.stem for folder in folders for file in (folder / "model").glob("*.yaml")} | {"Random"}
    )
    # RecBole's look-up of a name that it does not have imports packages that it does not require.
    if name in names:
        return count_every_interaction(get_model(name)) if name == "Pop" else get_model(name)
    raise UserError(
        f"the model {name!r} is not known{nearest(name, names)}: use a model of this package or of RecBole"
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """ ", did you mean ...?" with the most similar name, or nothing if none is similar."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""


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
        super().__init__(model, dataset, files, copy.deepcopy(config_dict))

    def compatibility_settings(self):
        add_numpy_aliases()

    def _init_parameters_category(self):
        super()._init_parameters_category()
        # RecBole appends keys of data sets to these lists, which are its module's own.
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}

    def _build_yaml_loader(self):
        return _Loader

    def _load_config_files(self, file_list):
        settings: dict[str, Any] = {}
        for file in file_list:
            settings.update(self._read_yaml(file))
        return settings

    def _read_yaml(self, file: str | os.PathLike) -> dict[str, Any]:
        if not os.path.isfile(file):
            raise MissingFileError(
                f"the config file {str(file)!r} does not exist: check the path given by config_files"
            )
        try:
            content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=self.yaml_loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(
                f"the config file {str(file)!r} is not valid YAML ({' '.join(str(error).split())}): mend it"
            ) from error
        if content is not None and not isinstance(content, dict):
            raise UserError(
                f"the config file {str(file)!r} holds a {type(content).__name__}, not settings: write lines `key: value`"
            )
        return content or {}

    def _convert_config_dict(self, config_dict):
        is_parsed = {
            key: isinstance(value, str) and key not in ("model", "dataset")
            for key, value in config_dict.items()
        }
        return {
            key: _parse_value(value) if is_parsed[key] else value
            for key, value in config_dict.items()
        }

    def _load_cmd_line(self):
        return self._convert_config_dict(self._arguments)

    def _get_model_and_dataset(self, model, dataset):
        defaults = {
            **self._read_yaml(properties_folder() / "overall.yaml"),
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
        # config stands below the models in the order of imports and knows their base class by where
        # it is written.
        is_generative = any(
            base.__module__ == "recbole_genrec.model.abstract" for base in model_class.__mro__
        )
        files = [
            folder / "overall.yaml",
            folder / "model" / f"{model}.yaml",
            folder / "dataset" / f"{dataset}.yaml",
        ]
        if is_generative:
            files.insert(1, folder / "generative.yaml")
        for file in files:
            if file.is_file():
                self._add_layer(file)
        recipe = self.external_config_dict.get("recipe", self.internal_config_dict["recipe"])
        if recipe is not None and not self._leave_out(
            "recipe", not list((folder / "recipe").glob(f"{model.lower()}_{recipe}.yaml"))
        ):
            self._add_layer(self._recipe_file(folder / "recipe", model.lower(), str(recipe)))

    def _leave_out(self, key: str, is_foreign: bool) -> bool:
        """Drop a given setting that other models have and this one has not; says whether it did."""
        if self._is_shared and is_foreign:
            self.left_out.add(key)
            self.external_config_dict.pop(key, None)
        return key in self.left_out

    def _add_layer(self, file: Path) -> None:
        layer = self._read_yaml(file)
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
        if isinstance(final["topk"], tuple):
            final["topk"] = list(final["topk"])
        if "train_neg_sample_args" not in external:
            self._choose_negatives(final)
        check_rules(final, external)
        if final.get("train_mode") == "all_positions" and not self.model_class.trains_all_positions:
            raise UserError(
                f"train_mode is 'all_positions', but the losses of {self.model} need a row per next item: leave it out"
            )
        self._settings = copy.deepcopy(
            {key: value for key, value in final.items() if key != "MODEL_TYPE"}
        )
        self._settings.update(model=self.model, dataset=self.dataset)
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
            final["train_neg_sample_args"] = self._read_yaml(_RECBOLE_PROPERTIES / "overall.yaml")[
                "train_neg_sample_args"
            ]

    def _init_device(self):
        final = self.final_config_dict
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None and "gpu_id" not in self.external_config_dict:
            final["gpu_id"] = visible
        if distributed.size() > 1:
            distributed.place(final)
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


def _parse_value(text: str) -> Any:
    """A Python literal, or one of true, false, none, null, ~; anything else stays a string and nothing is evaluated."""
    if text.strip().lower() in _WORDS:
        return _WORDS[text.strip().lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _flow_mapping(text)


def _flow_mapping(text: str) -> Any:
    """A mapping or list as YAML writes it, such as {text: tfidf}; any other text stays text."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
