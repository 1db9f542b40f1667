"""Item vectors in RecBole's own form: a file NAME.<suffix> beside NAME.inter (preload_weight)."""

from __future__ import annotations

import logging

import numpy as np
import torch

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import UserError

logger = logging.getLogger(__name__)


def preloaded_embeddings(config, dataset: GenRecDataset) -> torch.Tensor:
    """Return the vectors of preload_weight.

    With `additional_feat_suffix: [ent]`, `load_col: {inter: [...], ent: [ent_id, ent_emb]}`,
    `preload_weight: {ent_id: ent_emb}` and `alias_of_item_id: [ent_id]`, RecBole reads NAME.ent
    with the header `ent_id:token<TAB>ent_emb:float_seq` and gives the tokens of ent_id the ids of
    the items. Tokens that only this file has become items of the catalogue; the log counts them.

    Returns:
        float32 [n_items, d], row i = internal item id i, row 0 zeros.

    Raises:
        UserError: no field of preload_weight is in alias_of_item_id, or several are; an item has
            no vector, or several.
    """
    field = _id_field(config)
    vectors = torch.from_numpy(dataset.get_preload_weight(field)).float()
    ids = torch.from_numpy(np.array(dataset.field2feats(field)[0][field]))
    n_vectors = torch.bincount(ids, minlength=len(vectors))[1:]
    _refuse(
        dataset,
        n_vectors == 0,
        field,
        "no vector",
        "add them there, or filter the items out of the data set",
    )
    _refuse(dataset, n_vectors > 1, field, "more than one vector", "keep one row per item")
    n_unseen = int((torch.bincount(dataset.sequences.items, minlength=len(vectors))[1:] == 0).sum())
    if n_unseen:
        logger.warning(
            "%d of %d items of %r occur in no interaction but can be recommended: remove them from "
            "the file of %r if they should not",
            n_unseen,
            len(vectors) - 1,
            dataset.dataset_name,
            field,
        )
    return vectors if vectors.dim() == 2 else vectors[:, None]


def _id_field(config) -> str:
    fields = [
        field
        for field in config["preload_weight"] or {}
        if field in (config["alias_of_item_id"] or [])
    ]
    if len(fields) != 1:
        raise UserError(
            f"preload_weight is {config['preload_weight']} and alias_of_item_id is "
            f"{config['alias_of_item_id']}, but item vectors need one id field that is in both: "
            "write for example preload_weight: {ent_id: ent_emb} and alias_of_item_id: [ent_id]"
        )
    return fields[0]


def _refuse(
    dataset: GenRecDataset, is_wrong: torch.Tensor, field: str, what: str, way_out: str
) -> None:
    """Refuse the vectors if any item is wrong; is_wrong is for the ids 1, 2, ..."""
    wrong = np.asarray(dataset.field2id_token[field])[1:][is_wrong.numpy()]
    if len(wrong):
        raise UserError(
            f"{len(wrong)} of {len(is_wrong)} items (such as {', '.join(wrong[:3])}) have {what} "
            f"in the file of {field!r}, which preload_weight names: {way_out}"
        )
