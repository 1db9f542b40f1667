"""RecBole's sequential data set in exact time order, read fast, its sequences held once.

The generative models and RecBole's own sequential models use the same class, so every model of a
comparison sees the same histories, targets and split.
"""

from __future__ import annotations

import json
import logging
import os

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_genrec.compat import MendedDataset
from recbole_genrec.data.files import InteractionFile, ensure_folder
from recbole_genrec.data.interactions import FilterAxis, keep_by_number, leave_out, number_tokens
from recbole_genrec.data.prefixes import Prefixes, all_prefixes
from recbole_genrec.data.sequences import Sequences
from recbole_genrec.errors import UserError
from recbole_genrec.storage import sha256

logger = logging.getLogger(__name__)


class GenRecDataset(MendedDataset, SequentialDataset):
    """Sequential data set: histories in exact time order, one row per (history, next item).

    Rows, columns, values, ids and counts are as in RecBole's SequentialDataset, except that
    - interactions are sorted by (user, time) in float64, ties in file order, before RecBole turns
      times into float32;
    - validation and test rows are ordered by history length, so evaluation batches need little
      padding.
    The interaction file is read in blocks and filtered by whole columns, and `inter_feat` becomes
    Prefixes, rows that are cut from the sequences when a batch asks for them.

    A missing folder is made from a public dump or downloaded, where one of the two is known.

    Raises:
        MissingFileError: the data set's folder or .inter file is missing and cannot be made.
        UserError: the .inter file is empty, lacks a column, has no time for a row, or no user is
            long enough to be split.
    """

    sequences: Sequences

    def _load_data(self, token, dataset_path):
        ensure_folder(self.config)
        super()._load_data(token, dataset_path)

    def _load_inter_feat(self, token, dataset_path):
        if self.benchmark_filename_list is not None:
            super()._load_inter_feat(token, dataset_path)
            return
        path = os.path.join(dataset_path, f"{token}.inter")
        with InteractionFile(path, self.config) as file:
            feat = self._read_plain(file)
        self.inter_feat = self._load_feat(path, FeatureSource.INTERACTION) if feat is None else feat
        self._check_interactions(path)

    def _read_plain(self, file: InteractionFile) -> pd.DataFrame | None:
        """Read the columns to load; None if only RecBole's reader understands them."""
        types = {ftype.value: ftype for ftype in FeatureType}
        header = [name.split(":") for name in file.header]
        for field, ftype in header:
            if ftype not in types:
                raise UserError(
                    f"{file.path!r} declares {field!r} as {ftype!r}, but RecBole's types are "
                    f"{', '.join(types)}: change its header"
                )
        wanted, unwanted = self._get_load_and_unload_col(FeatureSource.INTERACTION)
        columns = {
            field: types[ftype]
            for field, ftype in header
            if (wanted is None or field in wanted) and field not in (unwanted or ())
        }
        if not columns or not set(columns.values()) <= {FeatureType.TOKEN, FeatureType.FLOAT}:
            return None
        feat = file.read_columns(
            {
                f"{field}:{ftype.value}": ftype == FeatureType.TOKEN
                for field, ftype in columns.items()
            }
        )
        if feat is None:
            return None
        feat.columns = list(columns)
        for field, ftype in columns.items():
            self.field2source[field] = FeatureSource.INTERACTION
            self.field2type[field], self.field2seqlen[field] = ftype, 1
            if ftype == FeatureType.FLOAT:
                self.field2bucketnum[field] = 2
        return feat

    def _check_interactions(self, path: str) -> None:
        if self.inter_feat is None or len(self.inter_feat) == 0:
            raise UserError(
                f"{path!r} holds 0 interactions, but a data set needs at least one: "
                "check how the file was written"
            )
        needed = (self.uid_field, self.iid_field, self.time_field)
        missing = [field for field in needed if field not in self.inter_feat]
        if missing:
            raise UserError(
                f"load_col does not load {missing} of {path!r}: "
                "add them to load_col: {inter: [...]}"
            )
        n_untimed = int(self.inter_feat[self.time_field].isna().sum())
        if n_untimed:
            raise UserError(
                f"{n_untimed} rows of {path!r} have no {self.time_field!r}, but histories are "
                "ordered by it: fill or remove them"
            )

    def _filter_by_inter_num(self):
        fields = {"user": self.uid_field, "item": self.iid_field}
        if not all(
            isinstance(self.inter_feat[field].dtype, pd.CategoricalDtype)
            for field in fields.values()
        ):
            return super()._filter_by_inter_num()
        listed = {name: getattr(self, f"{name}_feat") for name in fields}
        axes = []
        for name, field in fields.items():
            tokens = self.inter_feat[field].array
            axes.append(
                FilterAxis(
                    codes=tokens.codes,
                    n_tokens=len(tokens.categories),
                    intervals=self._parse_intervals_str(self.config[f"{name}_inter_num_interval"]),
                    listed=None
                    if listed[name] is None
                    else tokens.categories.get_indexer(listed[name][field].to_numpy()),
                )
            )
        kept = keep_by_number(axes)
        if len(kept.rows) < len(self.inter_feat):
            self.inter_feat = self.inter_feat.take(kept.rows)
        for (name, feat), is_kept in zip(listed.items(), kept.listed):
            if is_kept is not None:
                setattr(self, f"{name}_feat", feat.take(np.flatnonzero(is_kept)))

    def _reset_index(self):
        if len(self.inter_feat) == 0:
            raise UserError(
                f"the filters leave 0 interactions of {self.dataset_name!r}: "
                "widen user_inter_num_interval, item_inter_num_interval or val_interval"
            )
        super()._reset_index()

    def _remap(self, remap_list):
        if not any(
            isinstance(feat[field].dtype, pd.CategoricalDtype) for feat, field, _ in remap_list
        ):
            return super()._remap(remap_list)
        columns = [
            feat[field].array if ftype == FeatureType.TOKEN else feat[field].agg(np.concatenate)
            for feat, field, ftype in remap_list
        ]
        ids, tokens = number_tokens(
            [
                column if isinstance(column, pd.Categorical) else np.asarray(column)
                for column in columns
            ]
        )
        id2token = np.array(["[PAD]", *tokens])
        token2id = dict(zip(id2token.tolist(), range(len(id2token))))
        for (feat, field, ftype), column in zip(remap_list, ids):
            self.field2id_token.setdefault(field, id2token)
            self.field2token_id.setdefault(field, token2id)
            feat[field] = (
                column
                if ftype == FeatureType.TOKEN
                else np.split(column, np.cumsum(feat[field].agg(len))[:-1])
            )

    def _data_processing(self):
        super()._data_processing()
        if self.benchmark_filename_list is not None:
            return
        users = self.inter_feat[self.uid_field].to_numpy()
        by_time = np.lexsort((self.inter_feat[self.time_field].to_numpy(), users))
        self.inter_feat = self.inter_feat.take(by_time).reset_index(drop=True)
        self.sequences = self._sequences()

    def _sequences(self) -> Sequences:
        """Return the sequences of interactions that are sorted by user and time."""
        counts = np.bincount(self.inter_feat[self.uid_field].to_numpy(), minlength=self.user_num)
        starts = np.concatenate(([0], np.cumsum(counts)))
        items = self.inter_feat[self.iid_field].to_numpy(dtype=np.int64, copy=True)
        # RecBole sorts training rows by their times, in float32 and stably.
        users = np.flatnonzero(counts > 1)
        second = self.inter_feat[self.time_field].to_numpy()[starts[users] + 1]
        order = users[np.argsort(second.astype(np.float32), kind="stable")]
        return Sequences(*(torch.from_numpy(column) for column in (items, starts, order)))

    def fingerprint(self) -> str:
        """Return the SHA-256 (64 hex digits) of tokens in id order, sequences and split."""
        tokens = [
            json.dumps([str(token) for token in self.field2id_token[field]])
            for field in (self.iid_field, self.uid_field)
        ]
        split = {key: self.config["eval_args"][key] for key in ("split", "order", "group_by")}
        sequences = (self.sequences.items, self.sequences.starts)
        return sha256(*tokens, *sequences, json.dumps(split, sort_keys=True))

    def data_augmentation(self):
        """Replace the interactions by one row per (history, next item), as RecBole's method does.

        A user with n interactions gives n - 1 rows. The history is the last MAX_ITEM_LIST_LENGTH
        items, oldest first, 0 on the right. The interactions must be sorted by (user, time).
        """
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        columns = self.inter_feat.interaction
        names = {
            field: getattr(self, f"{field}_list_field")
            for field in columns
            if field != self.uid_field
        }
        self.inter_feat = all_prefixes(
            columns, self.uid_field, names, self.item_list_length_field, self.max_item_list_len
        )

    def __getitem__(self, index, join=True):
        rows = self.inter_feat[index]
        rows = rows.cut() if isinstance(rows, Prefixes) else rows
        return self.join(rows) if join else rows

    def leave_one_out(self, group_by, leave_one_mode):
        """Split as RecBole's method of the same name, by whole columns.

        Returns:
            Three data sets; without validation (or test) part the second (or third) is empty.
        """
        n_left_out = {"valid_and_test": 2, "valid_only": 1, "test_only": 1}
        if group_by is None or leave_one_mode not in n_left_out:
            return super().leave_one_out(group_by, leave_one_mode)
        rows = leave_out(self.inter_feat[group_by].numpy(), n_left_out[leave_one_mode])
        nothing = np.zeros(0, dtype=np.int64)
        if leave_one_mode == "valid_only":
            rows.append(nothing)
        elif leave_one_mode == "test_only":
            rows.insert(1, nothing)
        self._drop_unused_col()
        return [self.copy(self.inter_feat[part]) for part in rows]

    def build(self):
        """Split into training, validation and test parts.

        Returns:
            Three GenRecDataset; the rows of the last two are ordered by history length, shortest
            first.

        Raises:
            UserError: leave-one-out finds no user for validation or for test.
        """
        leave_one_out = self.benchmark_filename_list is None and self.config["eval_args"][
            "split"
        ] == {"LS": "valid_and_test"}
        if leave_one_out:
            self._check_lengths()
        train, valid, test = super().build()
        for part in (valid, test):
            order = torch.argsort(part.inter_feat[self.item_list_length_field], stable=True)
            part.inter_feat = part.inter_feat[order]
        return [train, valid, test]

    def _check_lengths(self) -> None:
        lengths = self.sequences.lengths()[1:]
        # 3 interactions give a training and a test row, 4 also a validation row.
        if int(lengths.max()) < 4:
            raise UserError(
                f"the longest of {len(lengths)} users of {self.dataset_name!r} has "
                f"{int(lengths.max())} interactions, but a training, a validation and a test "
                "target need 4: use more data or weaker filters"
            )
        n_short = int((lengths < 3).sum())
        if n_short:
            logger.info(
                "%d of %d users have fewer than 3 interactions: they are not evaluated",
                n_short,
                len(lengths),
            )


class GeneralDataset(GenRecDataset):
    """Data set of RecBole's general recommenders: rows (user, item) instead of histories.

    Ids and order are as in GenRecDataset.
    """

    _change_feat_format = Dataset._change_feat_format
    build = Dataset.build
    inter_matrix = Dataset.inter_matrix
