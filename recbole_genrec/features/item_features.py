"""Item features: float matrices with one row per item, from text, a file or a teacher."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.nn import functional as F

from recbole_genrec.config.models import find_model
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.features.ppmi import ppmi_features
from recbole_genrec.features.preloaded import preloaded_embeddings
from recbole_genrec.features.sentence_encoder import PREFIX, encoder_features, is_encoder
from recbole_genrec.features.text import text_fields, tfidf_features

logger = logging.getLogger(__name__)

TeacherTable = Callable[[str], torch.Tensor]
"""Map a model's name to its item embeddings, float [n_items, d], row 0 zeros."""

_BLOCK = 65536


def no_teacher(name: str) -> torch.Tensor:
    """Refuse to give a table: the TeacherTable of a model that was built without one.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"the item embeddings of {name} are needed, but the model was given no teacher_table: "
        "build it with recbole_genrec.quick_start.create_model"
    )


def item_matrix(
    config,
    dataset: GenRecDataset,
    teacher_table: TeacherTable = no_teacher,
    sources: Mapping[str, str] | None = None,
) -> torch.Tensor:
    """Return all item features, reduced, scaled and side by side.

    Args:
        config: read for item_features, item_feature_tokens, feature_pca, feature_scaling, the
            text_* and ppmi_* settings and feature_cache_dir.
        dataset: the data set of the items.
        teacher_table: gives a teacher's item embeddings. It is called last: training takes
            longest, and faults of the other sources should show before.
        sources: feature name -> source, in place of the setting item_features.

    Returns:
        float [n_items, sum of the widths]; row i belongs to internal item id i, row 0 is zeros.

    Raises:
        UserError: an unknown source, vectors that do not fit the data set, or a feature_pca above
            the number of items or columns.
        MissingFileError: a file does not exist.
        MissingPackageError: a sentence encoder needs a package that is not installed.
    """
    sources = choose_sources(config, dataset) if sources is None else sources
    features = {}
    for name in sorted(sources, key=lambda name: is_teacher(sources[name])):
        features[name] = read_feature(name, sources[name], config, dataset, teacher_table)
        if config["feature_pca"] is not None:
            features[name] = principal_components(name, features[name], config["feature_pca"])
    return scaled_matrix([features[name] for name in sources], config["feature_scaling"])


def choose_sources(config, dataset: GenRecDataset) -> dict[str, str]:
    """Return feature name -> source, as the setting item_features says.

    `auto` is {text: tfidf} if the data set has item text, else {cf: SASRec}.

    Raises:
        UserError: item_features is neither auto nor a mapping of names, or it is empty.
    """
    wanted = config["item_features"]
    if isinstance(wanted, Mapping):
        unnamed = [name for name in wanted if not isinstance(name, str)]
        if unnamed:
            raise UserError(
                f"item_features names a feature {unnamed[0]!r}, but a name is text: "
                f"write {{text: {wanted[unnamed[0]]}}}"
            )
        if not wanted:
            raise UserError(
                "item_features is empty, but a tokenizer needs at least one feature: set it to auto"
            )
        return dict(wanted)
    if wanted != "auto":
        raise UserError(
            f"item_features is {wanted!r}, but it must be auto or a mapping name -> source: write "
            "for example {text: tfidf}, {cf: SASRec} or {mine: path/to/features.npy}"
        )
    if text_fields(config, dataset):
        return {"text": "tfidf"}
    logger.info(
        "Item features: %r has no item text, so the item embeddings of a SASRec trained on its "
        "training part are used",
        dataset.dataset_name,
    )
    return {"cf": "SASRec"}


def is_teacher(source: str) -> bool:
    """Return True if a source is a model that has to be trained.

    Raises:
        UserError: it is no source at all.
    """
    is_file = isinstance(source, str) and source.endswith(".npy")
    if source in ("tfidf", "ppmi", "preloaded") or is_encoder(source) or is_file:
        return False
    try:
        find_model(str(source))
    except UserError as error:
        raise UserError(
            f"item_features names the source {source!r}, but a source is tfidf, ppmi, minilm, "
            f"{PREFIX}<name or folder>, the path of a .npy file, preloaded or the name of a "
            "RecBole model such as SASRec: use one of these"
        ) from error
    return True


def read_feature(
    name: str, source: str, config, dataset: GenRecDataset, teacher_table: TeacherTable
) -> torch.Tensor:
    """Return one feature as its source gives it, float32 [n_items, d], row 0 zeros.

    Args:
        name: the feature's name, for messages.
        source: "tfidf", "ppmi", "minilm", "sentence-transformers/<name or folder>", the path of a
            .npy file with rows named by item_feature_tokens, "preloaded" (preload_weight) or
            the name of a RecBole model.
        config: see item_matrix.
        dataset: the data set of the items.
        teacher_table: gives a model's item embeddings.

    Raises:
        UserError: see item_matrix; also values that are not finite, or that do not tell any two
            items apart.
    """
    if is_teacher(source):
        values = teacher_table(source)
    elif source == "tfidf":
        values = tfidf_features(config, dataset)
    elif source == "ppmi":
        values = ppmi_features(config, dataset)
    elif source == "preloaded":
        values = preloaded_embeddings(config, dataset)
    elif is_encoder(source):
        values = encoder_features(config, dataset, source)
    else:
        values = _read_file(source, config, dataset)
    _check_values(name, values, dataset.item_num)
    values = values.float().clone()
    values[0] = 0
    return values


def _check_values(name: str, values: torch.Tensor, n_items: int) -> None:
    if values.dim() != 2 or len(values) != n_items or values.size(1) == 0:
        raise UserError(
            f"item feature {name!r} has the shape {list(values.shape)}, but needs {n_items} rows "
            "(items and padding) and at least one column: give it one row per item"
        )
    n_bad = int((~torch.isfinite(values)).any(1).sum())
    if n_bad:
        raise UserError(
            f"item feature {name!r} has NaN or infinite values in {n_bad} of {n_items} rows: "
            "clean them first"
        )
    if n_items > 2 and torch.equal(values[1:].amin(0), values[1:].amax(0)):
        raise UserError(
            f"item feature {name!r} has the same row for each of {n_items - 1} items, but codes "
            "are made from the differences between items: check the source or use another one"
        )


def _read_file(path: str, config, dataset: GenRecDataset) -> torch.Tensor:
    """Return the rows of a .npy file, joined by item token; other items' rows are left out."""
    path = os.path.expanduser(path)
    tokens_path = os.path.expanduser(config["item_feature_tokens"] or f"{path[:-4]}.tokens")
    for file in (path, tokens_path):
        if not os.path.isfile(file):
            raise MissingFileError(
                f"there is no file {file!r}, but a .npy item feature needs its matrix and a text "
                "file with one item token per row: correct item_features or item_feature_tokens"
            )
    values, tokens = _load_matrix(path), _load_tokens(tokens_path)
    if values.ndim != 2 or len(values) != len(tokens) or values.dtype.kind not in "fiu":
        raise UserError(
            f"{path!r} has the shape {list(values.shape)} and type {values.dtype} and "
            f"{tokens_path!r} has {len(tokens)} lines, but a feature is a matrix of numbers with "
            "one row per item token: write both from the same list of items"
        )
    row_of = {token: row for row, token in enumerate(tokens)}
    if len(row_of) != len(tokens):
        raise UserError(
            f"{tokens_path!r} names {len(tokens) - len(row_of)} item tokens more than once: "
            "keep one row per item"
        )
    items = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    missing = [token for token in items if token not in row_of]
    if missing:
        raise UserError(
            f"{path!r} has no row for {len(missing)} of {len(items)} items "
            f"(such as {', '.join(missing[:3])}): add rows for them, or filter them out of the "
            "data set"
        )
    logger.info(
        "Item features: %s has rows of all %d items and %d rows of others",
        path,
        len(items),
        len(tokens) - len(items),
    )
    rows = np.asarray(values[[row_of[token] for token in items]], dtype=np.float32)
    return F.pad(torch.from_numpy(rows), (0, 0, 1, 0))


def _load_matrix(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{path!r} is not a plain numpy array ({error}): write it with numpy.save"
        ) from error


def _load_tokens(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as lines:
            return lines.read().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path!r} is not UTF-8 ({error}): save it as UTF-8") from error


def principal_components(name: str, values: torch.Tensor, n_components: int) -> torch.Tensor:
    """Return the first principal components of the items (sklearn's PCA).

    In each direction the weight with the largest absolute value is positive, so that the same
    values give the same components. Components beyond the rank of the values are zeros.

    Args:
        name: the feature's name, for the message.
        values: float [n_items, d], row 0 (padding) is ignored.
        n_components: 1 to min(n_items - 1, d).

    Returns:
        float32 [n_items, n_components], row 0 zeros.

    Raises:
        UserError: n_components is no integer in this range.
    """
    max_components = min(len(values) - 1, values.size(1))
    is_count = isinstance(n_components, int) and not isinstance(n_components, bool)
    if not is_count or not 1 <= n_components <= max_components:
        raise UserError(
            f"feature_pca is {n_components!r}, but item feature {name!r} has {len(values) - 1} "
            f"items and {values.size(1)} columns: give a whole number from 1 to {max_components}, "
            "or none"
        )
    mean = values[1:].mean(0, dtype=torch.double)
    blocks = values[1:].split(_BLOCK)
    scatter = torch.zeros(values.size(1), values.size(1), dtype=torch.double)
    for block in blocks:
        scatter += (block - mean).T @ (block - mean)
    variances, directions = torch.linalg.eigh(scatter)
    variances, directions = variances.flip(0)[:n_components], directions.flip(1)[:, :n_components]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    # Rounding leaves directions without variance; standardizing would turn them into noise.
    directions = directions * largest.sign() * (variances > 1e-12 * variances[0])
    reduced = torch.cat([(block - mean) @ directions for block in blocks]).float()
    return F.pad(reduced, (0, 0, 1, 0))


def scaled_matrix(features: list[torch.Tensor], scaling: str) -> torch.Tensor:
    """Return the scaled features side by side.

    Args:
        features: one or more float [n_items, d].
        scaling: applied to rows 1 to n_items - 1 of each feature. "standardize": every column has
            mean 0 and standard deviation 1, constant columns are 0. "unit_norm": every row has
            length 1, zero rows stay. "centered": unit_norm of the difference from the mean row,
            because vectors of sentence encoders share one main direction. "raw": unchanged.

    Returns:
        float32 [n_items, sum of the widths], row 0 zeros.
    """
    scaled = [_SCALINGS[scaling](values[1:]) for values in features]
    return F.pad(torch.cat(scaled, dim=1), (0, 0, 1, 0))


def _standardized(values: torch.Tensor) -> torch.Tensor:
    values = values.double()
    centered = values - values.mean(0)
    deviation = centered.square().mean(0).sqrt()
    # Rounding leaves a deviation near 0 in a constant column; dividing by it would make noise.
    is_constant = deviation <= 1e-7 * values.abs().amax(0)
    return (centered / deviation.masked_fill(is_constant, torch.inf)).float()


_SCALINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "standardize": _standardized,
    "unit_norm": lambda values: F.normalize(values, dim=1),
    "centered": lambda values: F.normalize(values - values.mean(0), dim=1),
    "raw": lambda values: values,
}
