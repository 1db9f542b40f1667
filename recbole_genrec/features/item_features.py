"""Item features: named float matrices with one row per item, from text, from a teacher or from a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from recbole_genrec.config.settings import find_model
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.features.preloaded import preloaded_embeddings
from recbole_genrec.features.sentence_encoder import PREFIX, encoder_features
from recbole_genrec.features.text import text_fields, tfidf_features
from recbole_genrec.teacher.sasrec import teacher_embeddings

logger = logging.getLogger(__name__)

SCALINGS = ("standardize", "unit_norm", "centered", "raw")
_BLOCK = 65536


class ItemFeatures(Mapping):
    """Mapping name -> FloatTensor [n_items, d]; row i belongs to internal item id i, row 0 (padding) is zeros.

    Args:
        features: name -> FloatTensor [n_items, d], one or more with the same n_items, as they came
            from their source.
        scaling: how matrix() scales rows 1 .. n_items - 1: "standardize" (each column to mean 0 and
            standard deviation 1, constant
            columns to 0), "unit_norm" (each row of each feature to length 1, zero rows stay),
            "centered" (unit_norm of what is left
            when the mean of all items is taken off: sentence encoders point everything in one
            direction), "raw".

    Raises:
        ValueError: no feature, wrong shape, a value that is not finite, the same row for every
            item, or an unknown scaling.
    """

    def __init__(self, features: Mapping[str, torch.Tensor], scaling: str):
        if scaling not in SCALINGS:
            raise UserError(
                f"feature_scaling is {scaling!r}, but it must be one of {', '.join(SCALINGS)}: choose one of these"
            )
        if not features:
            raise UserError(
                "item_features is empty, but a tokenizer needs at least one feature: set it to auto"
            )
        n_items = len(next(iter(features.values())))
        self._features, self._scaling = {}, scaling
        for name, values in features.items():
            if values.dim() != 2 or len(values) != n_items or values.size(1) == 0:
                raise UserError(
                    f"item feature {name!r} has the shape {list(values.shape)}, but needs {n_items} rows (items and padding) and "
                    "at least one column: give it one row per item"
                )
            n_bad = int((~torch.isfinite(values)).any(1).sum())
            if n_bad:
                raise UserError(
                    f"item feature {name!r} has NaN or infinite values in {n_bad} of {n_items} rows: clean them first"
                )
            if n_items > 2 and torch.equal(values[1:].amin(0), values[1:].amax(0)):
                raise UserError(
                    f"item feature {name!r} has the same row for each of {n_items - 1} items, but codes are made from what tells items "
                    "apart: check the source or use another one"
                )
            self._features[name] = values.float().clone()
            self._features[name][0] = 0

    @classmethod
    def from_dataset(
        cls, config, dataset: GenRecDataset, sources: Mapping[str, str] | None = None
    ) -> ItemFeatures:
        """Features that item_features asks for, or `sources` in its place.

        item_features is "auto" ({text: tfidf} if the data set has item text, else {cf: SASRec}) or
        a mapping name -> source; a
        source is "tfidf", "sentence-transformers/<name or folder>", the path of a .npy file whose
        rows are named by
        item_feature_tokens, "preloaded" (RecBole's preload_weight) or the name of a RecBole model,
        whose item embeddings are used.
        With feature_pca each feature is reduced to so many principal components.

        Raises:
            ValueError: unknown source, a file that does not fit the data set, or more components
                than there can be.
            FileNotFoundError: a file is missing. ImportError: sentence-transformers is not
                installed.
        """
        scaling, n_components = config["feature_scaling"], config["feature_pca"]
        # All sources are looked up before the first is read: reading one may take minutes.
        readers = {
            name: _reader(source) for name, source in (sources or _sources(config, dataset)).items()
        }
        # Teachers come last: they take longest, and what is wrong with the others should show
        # before.
        in_turn = sorted(
            readers, key=lambda name: getattr(readers[name], "func", None) is teacher_embeddings
        )
        read = {}
        for name in in_turn:
            read[name] = cls({name: readers[name](config, dataset)}, scaling)[name]
            if n_components is not None:
                read[name] = principal_components(name, read[name], n_components)
        return cls({name: read[name] for name in readers}, scaling)

    def matrix(self) -> torch.Tensor:
        """All features scaled and side by side, FloatTensor [n_items, sum of their widths], row 0 zeros."""
        scaled = torch.cat(
            [_scale(values[1:], self._scaling) for values in self._features.values()], dim=1
        )
        return F.pad(scaled, (0, 0, 1, 0))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


def read_feature(name: str, source: str, config, dataset: GenRecDataset) -> torch.Tensor:
    """One feature as it comes from its source, neither reduced nor scaled: FloatTensor [n_items, d], row 0 zeros.

    Raises:
        ValueError, FileNotFoundError, ImportError: as ItemFeatures.from_dataset.
    """
    return ItemFeatures({name: _reader(source)(config, dataset)}, "raw")[name]


def principal_components(name: str, values: torch.Tensor, n_components: int) -> torch.Tensor:
    """The first principal components of rows 1 .. n_items - 1 (sklearn's PCA), FloatTensor [n_items, n_components], row 0 zeros.

    In each direction the weight of the largest size is positive, so that the same values give the
    same components.
    Components beyond the rank of the values are zeros.

    Args:
        name: of the feature, for the message.
        values: FloatTensor [n_items, d].

    Raises:
        ValueError: n_components is no whole number of at least 1, or more than the items or
            columns.
    """
    most = min(len(values) - 1, values.size(1))
    if (
        not isinstance(n_components, int)
        or isinstance(n_components, bool)
        or not 1 <= n_components <= most
    ):
        raise UserError(
            f"feature_pca is {n_components!r}, but item feature {name!r} has {len(values) - 1} items and {values.size(1)} columns: give "
            f"a whole number from 1 to {most}, or none"
        )
    mean = values[1:].mean(0, dtype=torch.double)
    blocks = values[1:].split(_BLOCK)
    scatter = sum((block - mean).T @ (block - mean) for block in blocks)
    variances, directions = torch.linalg.eigh(scatter)
    variances, directions = variances.flip(0)[:n_components], directions.flip(1)[:, :n_components]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    # Rounding leaves directions without variance; standardizing would turn them into noise of size
    # 1.
    directions = directions * largest.sign() * (variances > 1e-12 * variances[0])
    reduced = torch.cat([(block - mean) @ directions for block in blocks]).float()
    return F.pad(reduced, (0, 0, 1, 0))


def _scale(values: torch.Tensor, scaling: str) -> torch.Tensor:
    if scaling == "unit_norm":
        return F.normalize(values, dim=1)
    if scaling == "centered":
        return F.normalize(values - values.mean(0), dim=1)
    if scaling == "standardize":
        values = values.double()
        centered = values - values.mean(0)
        deviation = centered.square().mean(0).sqrt()
        # Rounding leaves a deviation near 0 in a constant column; dividing by it would turn it into
        # noise of size 1.
        is_constant = deviation <= 1e-7 * values.abs().amax(0)
        return (centered / deviation.masked_fill(is_constant, torch.inf)).float()
    return values


def _sources(config, dataset: GenRecDataset) -> dict[str, str]:
    wanted = config["item_features"]
    if isinstance(wanted, Mapping):
        unnamed = [name for name in wanted if not isinstance(name, str)]
        if unnamed:
            raise UserError(
                f"item_features names a feature {unnamed[0]!r}, but a name is text: write {{text: {wanted[unnamed[0]]}}}"
            )
        return dict(wanted)
    if wanted != "auto":
        raise UserError(
            f"item_features is {wanted!r}, but it must be auto or a mapping name -> source: write for example {{text: tfidf}}, "
            "{cf: SASRec} or {mine: path/to/features.npy}"
        )
    if text_fields(config, dataset):
        return {"text": "tfidf"}
    logger.info(
        "Item features: %r has no item text, so the item embeddings of a SASRec trained on its training part are used",
        dataset.dataset_name,
    )
    return {"cf": "SASRec"}


def _reader(source: str) -> Callable[[object, GenRecDataset], torch.Tensor]:
    """What reads a source: a function of config and dataset that returns FloatTensor [n_items, d]."""
    if source == "tfidf":
        return tfidf_features
    if source == "preloaded":
        return preloaded_embeddings
    if isinstance(source, str) and source.startswith(PREFIX):
        return partial(encoder_features, source=source)
    if isinstance(source, str) and source.endswith(".npy"):
        return partial(_read_file, source)
    try:
        find_model(str(source))
    except ValueError as error:
        raise UserError(
            f"item_features names the source {source!r}, but a source is tfidf, {PREFIX}<name or folder>, the path of a .npy file, "
            "preloaded or the name of a RecBole model such as SASRec: use one of these"
        ) from error
    return partial(teacher_embeddings, model_name=source)


def _read_file(path: str, config, dataset: GenRecDataset) -> torch.Tensor:
    """Rows of a .npy file joined by item token; rows of items that the data set does not have are left out."""
    path = os.path.expanduser(path)
    tokens_path = os.path.expanduser(config["item_feature_tokens"] or f"{path[:-4]}.tokens")
    for file in (path, tokens_path):
        if not os.path.isfile(file):
            raise MissingFileError(
                f"there is no file {file!r}, but a .npy item feature needs its matrix and a text file with one item token per row: "
                "correct item_features or item_feature_tokens"
            )
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{path!r} is not a plain numpy array ({error}): write it with numpy.save"
        ) from error
    try:
        with open(tokens_path, encoding="utf-8-sig") as lines:
            tokens = lines.read().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{tokens_path!r} is not UTF-8 ({error}): save it as UTF-8") from error
    if values.ndim != 2 or len(values) != len(tokens) or values.dtype.kind not in "fiu":
        raise UserError(
            f"{path!r} has the shape {list(values.shape)} and type {values.dtype} and {tokens_path!r} has {len(tokens)} lines, but "
            "a feature is a matrix of numbers with one row per item token: write both from the same list of items"
        )
    row_of = {token: row for row, token in enumerate(tokens)}
    if len(row_of) != len(tokens):
        raise UserError(
            f"{tokens_path!r} names {len(tokens) - len(row_of)} item tokens more than once: keep one row per item"
        )
    items = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    missing = [token for token in items if token not in row_of]
    if missing:
        raise UserError(
            f"{path!r} has no row for {len(missing)} of {len(items)} items (such as {', '.join(missing[:3])}): add rows for them, "
            "or filter them out of the data set"
        )
    logger.info(
        "Item features: %s has rows of all %d items and %d rows of others",
        path,
        len(items),
        len(tokens) - len(items),
    )
    features = torch.zeros(len(items) + 1, values.shape[1])
    features[1:] = torch.from_numpy(
        np.asarray(values[[row_of[token] for token in items]], dtype=np.float32)
    )
    return features
