"""Item vectors from co-occurrence: the truncated SVD of shifted positive PMI.

Source: Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization" (NIPS 2014),
with items for words and a user's sequence for a sentence.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.sequences import Sequences
from recbole_genrec.errors import UserError

logger = logging.getLogger(__name__)


def ppmi_features(config, dataset: GenRecDataset) -> torch.Tensor:
    """Return the rows of the shifted PPMI matrix, reduced by truncated SVD.

    Only the training part counts: all but the last two items of every sequence. Components beyond
    the rank of the matrix are zeros.

    Args:
        config: read for ppmi_window, ppmi_shift and ppmi_dim.
        dataset: the data set of the items.

    Returns:
        float32 [n_items, d], d = min(ppmi_dim, items with a positive entry); the rows of padding
        and of the other items, such as those that training lacks, are zeros.

    Raises:
        UserError: the matrix has no positive entry.
    """
    counts = cooccurrences(dataset.sequences, dataset.item_num, config["ppmi_window"])
    matrix = shifted_ppmi(counts, config["ppmi_shift"])
    rows = np.flatnonzero(np.diff(matrix.indptr))
    logger.info(
        "PPMI: pairs of items %d, items without a pair %d",
        *(matrix.nnz, dataset.item_num - 1 - len(rows)),
    )
    if not len(rows):
        raise UserError(
            f"no two items of the training part of {dataset.dataset_name!r} occur together more "
            f"often than by chance with ppmi_window {config['ppmi_window']} and ppmi_shift "
            f"{config['ppmi_shift']}: raise ppmi_window, lower ppmi_shift or use another "
            "item_features source"
        )
    n_columns = min(config["ppmi_dim"], len(rows))
    # A fixed seed: features are data and must not change with a run's seed.
    svd = TruncatedSVD(n_columns, n_iter=7, random_state=0)
    reduced = svd.fit_transform(matrix[rows])
    # Rounding leaves tiny values beyond the rank; standardizing would turn them into noise.
    reduced *= svd.singular_values_ > 1e-12 * svd.singular_values_[0]
    features = torch.zeros(dataset.item_num, n_columns)
    features[rows] = torch.from_numpy(reduced).float()
    return features


def cooccurrences(sequences: Sequences, n_items: int, window: int) -> csr_matrix:
    """Count how often two items are at most `window` steps apart in the training part of a user.

    Both directions count, so the matrix is symmetric; an item that follows itself counts twice.

    Returns:
        float64 [n_items, n_items].
    """
    is_training = sequences.is_training()
    owners = torch.arange(len(sequences.lengths())).repeat_interleave(sequences.lengths())
    items, users = sequences.items[is_training].numpy(), owners[is_training].numpy()
    counts = csr_matrix((n_items, n_items))
    for distance in range(1, window + 1):
        is_pair = users[distance:] == users[:-distance]
        earlier, later = items[:-distance][is_pair], items[distance:][is_pair]
        counts += csr_matrix((np.ones(len(later)), (earlier, later)), (n_items, n_items))
    return counts + counts.T


def shifted_ppmi(counts: csr_matrix, shift: float) -> csr_matrix:
    """Return max(PMI - log(shift), 0), [n, n], PMI = log(count * total / (row sum * column sum)).

    Args:
        counts: symmetric [n, n], >= 0.
        shift: the number of negative samples k of the paper's equation 11, > 0.
    """
    pairs = counts.tocoo()
    sums = np.asarray(counts.sum(axis=1)).ravel()
    ratios = pairs.data * sums.sum() / (sums[pairs.row] * sums[pairs.col] * shift)
    kept = ratios > 1
    return csr_matrix((np.log(ratios[kept]), (pairs.row[kept], pairs.col[kept])), counts.shape)
