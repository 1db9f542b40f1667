"""Rules by which reviews become interactions: pure functions of integer codes.

A review becomes an interaction if it is the earliest of its user and item and lies in the 5-core.
One rule serves all three releases of Amazon reviews, because it repeats what the authors of the
published sets did:

- 2023: the publishers keep the earliest of a user's repeated reviews of an item and then filter to
  the 5-core (`kcore_filtering.py` in hyp1231/AmazonReviews2023). Their "5core/rating_only" files
  pass through unchanged.
- 2018: the published "5-core" files count repeated reviews. LC-Rec and LETTER
  (`amazon18_data_process.py` in zhengbw0324/LC-Rec) start from all reviews, keep the earliest of
  each pair, drop items without a metadata record and filter to the 5-core. Starting from the 5-core
  file gives the same result: the core of a part lies within the core of the whole, and a pair is in
  the file with all its repeats or not at all.
- 2014: the published 5-core files pass through unchanged too. In the copies of Beauty and Sports in
  use (198,502 and 296,337 rows, the published counts) every (user, item) pair is distinct and every
  user and item has five interactions.

Times of the 2014 and 2018 releases are days, so equal times are common: the file's order decides.

Shapes: N interactions.
"""

from __future__ import annotations

import numpy as np


def earliest_of_each_pair(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the rows of the earliest interaction of every (user, item) pair.

    Among equal times the first in the file counts.

    Args:
        users: codes, integers [N] >= 0.
        items: codes, integers [N] >= 0.
        times: numbers [N].

    Returns:
        int64 [number of distinct pairs], increasing.
    """
    order = np.lexsort((times, items, users))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (users[order[1:]] != users[order[:-1]]) | (items[order[1:]] != items[order[:-1]])
    return np.sort(order[is_first])


def history_order(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the rows user by user (by code), each in time order, ties in file order: int64 [N]."""
    return np.lexsort((times, users))
