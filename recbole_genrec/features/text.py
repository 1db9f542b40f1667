"""Item text: one sentence per item from the fields of the .item file, and its TF-IDF vectors."""

from __future__ import annotations

import csv
import logging
import os
from string import Formatter
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.files import read_header
from recbole_genrec.errors import UserError

logger = logging.getLogger(__name__)


def item_file(dataset: GenRecDataset) -> str:
    """Return the path of the data set's .item file: <data_path>/<dataset>/<dataset>.item."""
    return os.path.join(dataset.dataset_path, f"{dataset.dataset_name}.item")


class Part(NamedTuple):
    """One field of a template and the text around it, left out where an item lacks the field."""

    before: str
    field: str
    after: str


def text_fields(config, dataset: GenRecDataset) -> list[str]:
    """Return the text fields in the order of text_template, text_fields or the file.

    Without the two settings these are all token_seq fields, and all token fields that are no ids
    (item id, *_id). The list is empty without an .item file or without text in it.

    Raises:
        UserError: both settings are given, a template is malformed, or the file lacks a field.
    """
    key, wanted = _wanted_fields(config)
    path = item_file(dataset)
    if not os.path.isfile(path):
        if wanted:
            raise UserError(
                f"{key} is {config[key]!r}, but there is no file {path!r}: add it or drop {key}"
            )
        return []
    types = _field_types(config, path)
    missing = [field for field in wanted if field not in types]
    if missing:
        raise UserError(
            f"{key} names {missing}, but {path!r} has only {list(types)}: choose among these"
        )
    if wanted:
        return wanted
    fields = [
        field
        for field, kind in types.items()
        if kind == "token_seq"
        or (kind == "token" and field != dataset.iid_field and not field.endswith("_id"))
    ]
    # Years or prices say something only beside a title.
    return fields if any(types[field] == "token_seq" for field in fields) else []


def parse_template(template: str) -> list[Part]:
    """Split a text such as "Title: {title} ({year}). {description}" into its fields.

    To a field belongs the text before it and a closing bracket or quotation mark right after it;
    to the last field all text after it.

    Raises:
        UserError: it is no text, has no field or an unmatched brace, or a field is more than a
            name.
    """
    if not isinstance(template, str):
        raise UserError(
            f"text_template is {template!r}, but has to be text with fields in braces: "
            "put it in quotes, as in '{title}'"
        )
    try:
        pieces = list(Formatter().parse(" ".join(template.split())))
    except ValueError as error:
        raise UserError(
            f"text_template is {template!r}, which cannot be read ({error}): "
            "write fields as {title}"
        ) from error
    parts: list[Part] = []
    text = ""
    for literal, field, layout, conversion in pieces:
        text += literal
        if field is None:
            continue
        if layout or conversion:
            raise UserError(
                f"text_template is {template!r}, but a field is only a name in braces: "
                f"write {{{field}}}"
            )
        before = text.lstrip(')]}"»”') if parts else text
        if before != text:
            parts[-1] = parts[-1]._replace(after=text[: len(text) - len(before)])
        parts.append(Part(before, field, ""))
        text = ""
    if not parts:
        raise UserError(
            f"text_template is {template!r}, but it needs a field in braces: "
            "write for example '{title}'"
        )
    return [*parts[:-1], parts[-1]._replace(after=text)]


def item_sentences(config, dataset: GenRecDataset) -> list[str]:
    """Return one sentence per item, n_items strings; row i = internal item id i, row 0 is empty.

    A sentence is the item's text fields joined by a space, or text_template filled with them,
    without the fields that the item lacks and the text that belongs to them (see parse_template).
    Items are joined by token; the first line of an item counts. Items that the .item file lacks,
    or whose fields are empty, have the empty string. The log counts all of these.

    Raises:
        UserError: no text field, a file that is no table, or no item of the data set has text.
    """
    path = item_file(dataset)
    fields = text_fields(config, dataset)
    if not fields:
        raise UserError(
            f"the data set {dataset.dataset_name!r} has no text field in {path!r}: add one "
            "(name:token_seq), or set item_features to another source, such as {cf: SASRec}"
        )
    joined = [Part(" " if number else "", field, "") for number, field in enumerate(fields)]
    parts = joined if config["text_template"] is None else parse_template(config["text_template"])
    tokens = pd.Index([str(token) for token in dataset.field2id_token[dataset.iid_field][1:]])
    table = _read_items(config, path, dataset.iid_field, fields)
    n_missing = int((~tokens.isin(table.index)).sum())
    n_unused = int((~table.index.isin(tokens)).sum())
    sentences = _fill(table.reindex(tokens).fillna(""), parts)
    n_empty, n_items = sentences.count(""), len(sentences)
    if n_empty == n_items:
        raise UserError(
            f"none of the {n_items} items of {dataset.dataset_name!r} has text in {path!r}: check "
            f"that its {dataset.iid_field!r} column holds the item tokens of the .inter file"
        )
    logger.info(
        "Item text from %s: items %d, without text %d, not in the .item file %d, "
        "only in the .item file %d",
        *(" + ".join(fields), n_items, n_empty, n_missing, n_unused),
    )
    return ["", *sentences]


def tfidf_features(config, dataset: GenRecDataset) -> torch.Tensor:
    """Return the TF-IDF vectors of the item sentences, reduced by truncated SVD.

    Words that fewer than text_min_df items have are left out.

    Returns:
        float32 [n_items, d], d = min(text_dim, words, items); row 0 and items without a word are
        zeros.

    Raises:
        UserError: text_dim < 1, no text, or no word is left.
    """
    if config["text_dim"] < 1:
        raise UserError(
            f"text_dim is {config['text_dim']}, but a feature needs at least 1 column: raise it"
        )
    sentences = item_sentences(config, dataset)[1:]
    weights = _tfidf(sentences, config["text_min_df"], dataset.dataset_name)
    n_columns = min(config["text_dim"], *weights.shape)
    if weights.shape[1] == 1:
        reduced = weights.toarray()
    else:
        # A fixed seed: features are data and must not change with a run's seed.
        reduced = TruncatedSVD(n_columns, n_iter=7, random_state=0).fit_transform(weights)
    features = torch.zeros(len(sentences) + 1, n_columns)
    features[1:] = torch.from_numpy(reduced)
    return features


def _tfidf(sentences: list[str], min_df: int, dataset_name: str) -> csr_matrix:
    # Logarithmic counts: a long description says more than a title, but not ten times more.
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=min_df, dtype=np.float64)
    try:
        weights = vectorizer.fit_transform(sentences)
    except ValueError as error:
        raise UserError(
            f"the text of {dataset_name!r} has no word of two or more letters or digits that "
            f"text_min_df ({min_df}) or more items have: lower text_min_df, or choose other "
            "text_fields or another item_features source"
        ) from error
    n_wordless = int((np.diff(weights.indptr) == 0).sum())
    logger.info("TF-IDF: words %d, items without a word %d", weights.shape[1], n_wordless)
    return weights


def _wanted_fields(config) -> tuple[str, list[str]]:
    """Return the setting that names the text fields, and the names; none if neither is given."""
    fields, template = config["text_fields"], config["text_template"]
    if template is None:
        return "text_fields", [fields] if isinstance(fields, str) else list(fields or [])
    if fields:
        raise UserError(
            f"text_fields is {fields!r} and text_template {template!r}, but a template names its "
            "fields itself: set one of the two to none"
        )
    return "text_template", list(dict.fromkeys(part.field for part in parse_template(template)))


def _fill(table: pd.DataFrame, parts: list[Part]) -> list[str]:
    sentences = np.full(len(table), "", dtype=object)
    for number, (before, field, after) in enumerate(parts):
        values = table[field].map(_tidy).to_numpy(dtype=object)
        # A sentence that begins in the middle of the template does not begin with a separator.
        beginning = before if number == 0 else before.lstrip(" .,;:!?/|–—-")  # noqa: RUF001
        opening = np.where(
            sentences == "", np.array(beginning, dtype=object), np.array(before, dtype=object)
        )
        sentences = np.where(values == "", sentences, sentences + opening + values + after)
    return sentences.tolist()


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _field_types(config, path: str) -> dict[str, str]:
    header = read_header(path, config["field_separator"], config["encoding"])
    columns = [column.split(":") for column in header]
    is_typed = all(len(column) == 2 for column in columns)
    if not is_typed or len({name for name, _ in columns}) != len(columns):
        raise UserError(
            f"the first line of {path!r} is {config['field_separator'].join(header)!r}, but "
            "RecBole needs columns named 'name:type', each once: write a header such as "
            "'item_id:token<TAB>title:token_seq'"
        )
    return dict(columns)


def _read_items(config, path: str, item_field: str, fields: list[str]) -> pd.DataFrame:
    """Return the text fields of the file by item token, one row per token."""
    names = list(_field_types(config, path))
    if item_field not in names:
        raise UserError(
            f"{path!r} has the columns {names} and lacks {item_field!r}: give its column of item "
            "tokens this name"
        )
    try:
        # QUOTE_NONE: a title that begins with a quotation mark would swallow the lines after it.
        table = pd.read_csv(
            path,
            sep=config["field_separator"],
            names=names,
            skiprows=1,
            usecols=list(dict.fromkeys([item_field, *fields])),
            index_col=False,
            dtype=str,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
            encoding=config["encoding"],
        )
    except ValueError as error:
        raise UserError(
            f"{path!r} cannot be read as a table ({' '.join(str(error).split())}): give every line "
            f"the {len(names)} columns of the header"
        ) from error
    table = table.set_index(item_field, drop=False)
    is_repeated = table.index.duplicated()
    if is_repeated.any():
        logger.warning(
            "lines of %r that repeat an item token: %d; an item's first line counts",
            path,
            is_repeated.sum(),
        )
    return table[~is_repeated]
