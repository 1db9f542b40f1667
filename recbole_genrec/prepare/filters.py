"""Which reviews become interactions, and in which order: pure functions of integer codes.

What the authors of the published sets did, and why one rule serves all three releases of Amazon
reviews:

- 2023: the publishers keep the earliest of a user's repeated reviews of an item and then filter to
  the 5-core (`kcore_filtering.py`
  in hyp1231/AmazonReviews2023), so their "5core/rating_only" files stay as they are here.
- 2018: the published "5-core" files count repeated reviews. LC-Rec and LETTER
  (`amazon18_data_process.py` in zhengbw0324/LC-Rec) keep the
  earliest of each pair, drop items without a metadata record, and filter to the 5-core. They start
  from all reviews; from the 5-core file
  the result is the same, since a core of a part lies within the core of the whole and a pair is
  there with all its repeats or not at all.
- 2014: the published 5-core files are 5-cores without a repeated pair: in the copies of Beauty and
  Sports in use (198,502 and 296,337
  rows, the published numbers) every (user, item) pair is distinct and every user and item has five.
  So they too stay as they are.

Times of the 2014 and 2018 releases are days, so equal times are common: there the file's order
decides.
"""

# Shapes: N interactions

from __future__ import annotations

import numpy as np


def earliest_of_each_pair(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Row numbers of the earliest interaction of every (user, item) pair, the first in the file among equal times.

    Args:
        users, items: codes, integers [N] >= 0.
        times: numbers [N].

    Returns:
        int64 [number of distinct pairs], increasing.
    """
    order = np.lexsort((times, items, users))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (users[order[1:]] != users[order[:-1]]) | (items[order[1:]] != items[order[:-1]])
    return np.sort(order[is_first])


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Row numbers of the largest part of the interactions in which every user and every item has at least k of them.

    Args:
        users, items: codes, integers [N] >= 0.

    Returns:
        int64 [0 .. N rows], increasing.
    """
    rows = np.arange(len(users))
    while True:
        user, item = users[rows], items[rows]
        stays = (np.bincount(user)[user] >= k) & (np.bincount(item)[item] >= k)
        if stays.all():
            return rows
        rows = rows[stays]


def history_order(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Row numbers user by user (by code), each in time order, equal times in the order of the file: int64 [N]."""
    return np.lexsort((times, users))
