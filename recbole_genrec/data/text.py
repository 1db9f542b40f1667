"""Item text -> vectors without a download: TF-IDF and truncated SVD over the text fields of the .item file."""

from __future__ import annotations

import csv
import logging
import os

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_genrec.data.dataset import GenRecDataset

logger = logging.getLogger(__name__)


def item_file(dataset: GenRecDataset) -> str:
    """Where the .item file of the data set is looked for: <data_path>/<dataset>/<dataset>.item."""
    return os.path.join(dataset.dataset_path, f"{dataset.dataset_name}.item")


def text_fields(config, dataset: GenRecDataset) -> list[str]:
    """Names of the text fields to use, in the order of text_fields or of the file; empty if there is no .item file or no text.

    text_fields names them; without it they are all token_seq fields and all token fields that are no ids (item id, *_id).

    Raises:
        ValueError: text_fields names a field that the file does not have.
    """
    path = item_file(dataset)
    if not os.path.isfile(path):
        if config["text_fields"]:
            raise ValueError(f"text_fields is {config['text_fields']}, but there is no file {path!r}: add it or drop text_fields")
        return []
    types = _field_types(config, path)
    if config["text_fields"]:
        missing = [field for field in config["text_fields"] if field not in types]
        if missing:
            raise ValueError(f"text_fields names {missing}, but {path!r} has only {list(types)}: choose among these")
        return list(config["text_fields"])
    fields = [
        field
        for field, kind in types.items()
        if kind == "token_seq" or (kind == "token" and field != dataset.iid_field and not field.endswith("_id"))
    ]
    # Years or prices alone say nothing; as company of a title they do.
    return fields if any(types[field] == "token_seq" for field in fields) else []


def item_sentences(config, dataset: GenRecDataset) -> list[str]:
    """One sentence per item, list of n_items strings: its text fields joined by a space; row i = internal item id i.

    Items are joined by token. Items that the .item file lacks, or whose fields are empty, have the empty string, as padding has;
    their number is logged.

    Raises:
        ValueError: no text field, or no item of the data set has text.
    """
    path = item_file(dataset)
    fields = text_fields(config, dataset)
    if not fields:
        raise ValueError(
            f"the data set {dataset.dataset_name!r} has no text field in {path!r}: add one (name:token_seq), or set item_features "
            "to another source, such as {cf: SASRec}"
        )
    table = _read_items(config, path).drop_duplicates(dataset.iid_field).set_index(dataset.iid_field)
    sentences = table[fields].agg(" ".join, axis=1).str.split().str.join(" ")
    tokens = dataset.field2id_token[dataset.iid_field]
    sentences = sentences.reindex([str(token) for token in tokens[1:]]).fillna("")
    n_empty, n_items = int((sentences == "").sum()), len(sentences)
    if n_empty == n_items:
        raise ValueError(
            f"none of the {n_items} items of {dataset.dataset_name!r} has text in {path!r}: check that its {dataset.iid_field!r} "
            "column holds the item tokens of the .inter file"
        )
    logger.info("Item text: %s of %d items, %d without text", " + ".join(fields), n_items, n_empty)
    return ["", *sentences]


def tfidf_features(config, dataset: GenRecDataset) -> torch.Tensor:
    """TF-IDF of the item sentences, reduced by truncated SVD.

    Returns:
        FloatTensor [n_items, d], d = min(text_dim, words, items); row 0 and items without text are zeros.

    Raises:
        ValueError: text_dim < 1, no text, or no word in it.
    """
    if config["text_dim"] < 1:
        raise ValueError(f"text_dim is {config['text_dim']}, but a feature needs at least 1 column: raise it")
    sentences = item_sentences(config, dataset)[1:]
    try:
        # Logarithmic counts: a long description says more than a title, but not ten times more.
        weights = TfidfVectorizer(sublinear_tf=True, dtype=np.float64).fit_transform(sentences)
    except ValueError as error:
        raise ValueError(
            f"the text of {dataset.dataset_name!r} has no word of two or more letters or digits: choose other text_fields or "
            "another item_features source"
        ) from error
    n_columns = min(config["text_dim"], *weights.shape)
    if weights.shape[1] == 1:
        reduced = weights.toarray()
    else:
        # A fixed seed: features are data, and must not change with the seed of an experiment.
        reduced = TruncatedSVD(n_columns, n_iter=7, random_state=0).fit_transform(weights)
    features = torch.zeros(len(sentences) + 1, n_columns)
    features[1:] = torch.from_numpy(reduced)
    return features


def _field_types(config, path: str) -> dict[str, str]:
    with open(path, encoding=config["encoding"]) as file:
        header = file.readline().rstrip("\r\n").split(config["field_separator"])
    if any(column.count(":") != 1 for column in header):
        raise ValueError(
            f"the first line of {path!r} is {config['field_separator'].join(header)!r}, but RecBole needs columns named "
            "'name:type': write a header such as 'item_id:token<TAB>title:token_seq'"
        )
    return dict(column.split(":") for column in header)


def _read_items(config, path: str) -> pd.DataFrame:
    names = list(_field_types(config, path))
    # QUOTE_NONE: a title that begins with a quotation mark would swallow the lines after it.
    return pd.read_csv(
        path,
        sep=config["field_separator"],
        names=names,
        skiprows=1,
        index_col=False,
        dtype=str,
        keep_default_na=False,
        quoting=csv.QUOTE_NONE,
        encoding=config["encoding"],
    )
