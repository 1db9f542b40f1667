"""RecBole's sequential data set with exact time order and fast augmentation.

The same class serves the generative models and RecBole's own sequential models, so that every model of a comparison sees
the same histories, the same targets and the same split.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from typing import NamedTuple

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils.url import decide_download, download_url, extract_zip, rename_atomic_files

logger = logging.getLogger(__name__)


class Sequences(NamedTuple):
    """All interactions of all users, in time order within a user.

    items: LongTensor [n_interactions], internal item ids (1 .. n_items - 1).
    starts: LongTensor [n_users + 1], non-decreasing; user u owns items[starts[u]:starts[u + 1]]. Row 0 is the padding user and
        owns nothing. Under leave-one-out the last item of a user is the test target, the one before it the validation target.
    """

    items: torch.Tensor
    starts: torch.Tensor

    def lengths(self) -> torch.Tensor:
        """Number of interactions of every user, LongTensor [n_users]; entry 0 is 0."""
        return self.starts[1:] - self.starts[:-1]


class GenRecDataset(SequentialDataset):
    """Sequential data set: histories in exact time order, one row per (history, next item).

    Differences from RecBole's SequentialDataset:
    - interactions are sorted by (user, time) in float64, ties in file order, before RecBole turns times into float32;
    - augmentation is one gather instead of a loop over rows, with the same rows, columns and values;
    - validation and test rows are ordered by history length, so that evaluation batches need little padding.

    Raises:
        FileNotFoundError: the data set's folder or .inter file is missing and cannot be downloaded.
        ValueError: the .inter file is empty, lacks a column, has no time for a row, or no user is long enough to be split.
    """

    sequences: Sequences

    def _from_scratch(self):
        with warnings.catch_warnings():
            # RecBole fills missing values in a way that pandas 2 announces to change in 3: one page of warnings a run.
            warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
            super()._from_scratch()

    def _load_data(self, token, dataset_path):
        if not os.path.exists(dataset_path):
            self._download()
        if self.benchmark_filename_list is None:
            self._check_inter_file(os.path.join(dataset_path, f"{token}.inter"))
        super()._load_data(token, dataset_path)
        if self.benchmark_filename_list is None:
            self._check_interactions(os.path.join(dataset_path, f"{token}.inter"))

    def _check_inter_file(self, path: str) -> None:
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"the folder {os.path.dirname(path)!r} has no file {os.path.basename(path)!r}: "
                "put RecBole's atomic interaction file there, or point --data_path at the folder that holds the data set"
            )
        with open(path, encoding=self.config["encoding"]) as file:
            header = file.readline().rstrip("\r\n").split(self.config["field_separator"])
        fields = dict(column.split(":") for column in header if column.count(":") == 1)
        if len(fields) != len(header):
            raise ValueError(
                f"the first line of {path!r} is {self.config['field_separator'].join(header)!r}, but RecBole needs columns named "
                "'name:type': write a header such as 'user_id:token<TAB>item_id:token<TAB>timestamp:float'"
            )
        missing = [field for field in (self.uid_field, self.iid_field, self.time_field) if field not in fields]
        if missing:
            raise ValueError(
                f"{path!r} has the columns {list(fields)} and lacks {missing}: "
                "add them, or name your columns with USER_ID_FIELD, ITEM_ID_FIELD and TIME_FIELD"
            )
        if fields[self.time_field] != "float":
            raise ValueError(
                f"{path!r} declares {self.time_field!r} as {fields[self.time_field]!r}, but time order needs a number: "
                f"write '{self.time_field}:float' in its header"
            )

    def _check_interactions(self, path: str) -> None:
        if self.inter_feat is None or len(self.inter_feat) == 0:
            raise ValueError(f"{path!r} holds 0 interactions, but a data set needs at least one: check how the file was written")
        missing = [f for f in (self.uid_field, self.iid_field, self.time_field) if f not in self.inter_feat]
        if missing:
            raise ValueError(f"load_col does not load {missing} of {path!r}: add them to load_col: {{inter: [...]}}")
        n_untimed = int(self.inter_feat[self.time_field].isna().sum())
        if n_untimed:
            raise ValueError(
                f"{n_untimed} rows of {path!r} have no {self.time_field!r}, but histories are ordered by it: fill or remove them"
            )

    def _download(self):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        try:
            if self.config["local_rank"] == 0:
                self._fetch()
        finally:
            # RecBole waits here even when there is no process group, which ends the first run of a single process.
            if distributed:
                torch.distributed.barrier()

    def _fetch(self) -> None:
        folder = os.path.normpath(self.dataset_path)
        url = self._get_download_url("url", allow_none=True)
        advice = f"put {self.dataset_name}.inter into it, or set --data_path to the folder that holds the folder of this data set"
        if url is None:
            raise FileNotFoundError(f"the data folder {folder!r} does not exist and RecBole knows no download for it: {advice}")
        parent = os.path.dirname(folder) or "."
        os.makedirs(parent, exist_ok=True)
        # A folder appears under its final name only when it is complete: an interrupted download is tried again.
        unfinished = tempfile.mkdtemp(prefix=f".{self.dataset_name}-", dir=parent)
        try:
            if not decide_download(url):
                raise OSError("the download was declined")
            archive = download_url(url, unfinished)
            extract_zip(archive, unfinished)
            os.unlink(archive)
            rename_atomic_files(unfinished, os.path.splitext(os.path.basename(archive))[0], self.dataset_name)
            os.chmod(unfinished, 0o755)
            os.replace(unfinished, folder)
        except (OSError, RuntimeError, EOFError) as error:
            raise FileNotFoundError(
                f"the data folder {folder!r} does not exist and {url} cannot be downloaded ({error}): {advice}"
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _remove_duplication(self):
        super()._remove_duplication()
        # RecBole sorts by time there with an unstable sort; the index still knows the file's order.
        self.inter_feat.sort_index(inplace=True)

    def _reset_index(self):
        if len(self.inter_feat) == 0:
            raise ValueError(
                f"the filters leave 0 interactions of {self.dataset_name!r}: "
                "widen user_inter_num_interval, item_inter_num_interval or val_interval"
            )
        super()._reset_index()

    def _data_processing(self):
        super()._data_processing()
        if self.benchmark_filename_list is not None:
            return
        self.inter_feat = self.inter_feat.sort_values(
            [self.uid_field, self.time_field], kind="stable", ignore_index=True
        )
        counts = np.bincount(self.inter_feat[self.uid_field].to_numpy(), minlength=self.user_num)
        self.sequences = Sequences(
            items=torch.from_numpy(self.inter_feat[self.iid_field].to_numpy(dtype=np.int64, copy=True)),
            starts=torch.from_numpy(np.concatenate(([0], np.cumsum(counts)))),
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex, 64 digits) of item tokens and user tokens in id order, of every user's sequence and of the split."""
        digest = hashlib.sha256()
        for field in (self.iid_field, self.uid_field):
            digest.update(json.dumps([str(token) for token in self.field2id_token[field]]).encode())
        for tensor in self.sequences:
            digest.update(tensor.numpy().tobytes())
        split = {key: self.config["eval_args"][key] for key in ("split", "order", "group_by")}
        digest.update(json.dumps(split, sort_keys=True).encode())
        return digest.hexdigest()

    def data_augmentation(self):
        """Replace the interactions by one row per (history, next item), as RecBole's method of this name does.

        A user with n interactions gives n - 1 rows; the history is the last MAX_ITEM_LIST_LENGTH items, oldest first, padded with
        0 on the right. The interactions must be sorted by (user, time).
        """
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        user = self.inter_feat[self.uid_field]
        row = torch.arange(len(user))
        is_first = torch.ones(len(user), dtype=torch.bool)
        is_first[1:] = user[1:] != user[:-1]
        first = torch.cummax(torch.where(is_first, row, 0), dim=0).values

        target = row[~is_first]
        length = (target - first[target]).clamp(max=self.max_item_list_len)
        step = torch.arange(self.max_item_list_len)
        is_padding = step >= length[:, None]
        source = ((target - length)[:, None] + step).masked_fill(is_padding, 0)

        columns = {field: values[target] for field, values in self.inter_feat.interaction.items()}
        columns[self.item_list_length_field] = length
        for field, values in self.inter_feat.interaction.items():
            if field != self.uid_field:
                history = values[source]
                history[is_padding] = 0
                columns[getattr(self, f"{field}_list_field")] = history
        self.inter_feat = Interaction(columns)

    def build(self):
        """Split into training, validation and test parts.

        Returns:
            three GenRecDataset; the last two have their rows ordered by history length, shortest first.

        Raises:
            ValueError: leave-one-out finds no user for validation or for test.
        """
        leave_one_out = self.benchmark_filename_list is None and self.config["eval_args"]["split"] == {"LS": "valid_and_test"}
        if leave_one_out:
            self._check_lengths()
        train, valid, test = super().build()
        for part in (valid, test):
            order = torch.argsort(part.inter_feat[self.item_list_length_field], stable=True)
            part.inter_feat = Interaction({field: values[order] for field, values in part.inter_feat.interaction.items()})
        return [train, valid, test]

    def _check_lengths(self) -> None:
        lengths = self.sequences.lengths()[1:]
        # RecBole splits the rows (history, next item): 3 interactions give a training and a test row, 4 also a validation row.
        if int(lengths.max()) < 4:
            raise ValueError(
                f"the longest of {len(lengths)} users of {self.dataset_name!r} has {int(lengths.max())} interactions, but a "
                "training, a validation and a test target need 4: use more data or weaker filters"
            )
        n_short = int((lengths < 3).sum())
        if n_short:
            logger.info("%d of %d users have fewer than 3 interactions: they are not evaluated", n_short, len(lengths))
