"""Markov, a floor for every other model: the item that followed the last one most often."""

# Shapes: B batch, P pairs of items that followed each other in training

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_genrec.data.dataset import Sequences


class Markov(SequentialRecommender):
    """A chain over items: count what followed the last item in training, back off to popularity.

    Items that followed the last item rank by how often they did, ties and all other items by their
    number of training interactions. Nothing is learned by gradient: the counts are made at once
    from the training part of every sequence, which is all but its last two items.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        popularity, starts, followers, counts = count_transitions(dataset.sequences, self.n_items)
        self.register_buffer("popularity", popularity)
        self.register_buffer("starts", starts)
        self.register_buffer("followers", followers)
        self.register_buffer("counts", counts)
        self.nothing = nn.Parameter(torch.zeros(1))  # RecBole's trainer wants something to optimize

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return zero: there is nothing to learn."""
        return self.nothing.sum() * 0

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Score all items after the last item of every history, float [B, n_items]."""
        lengths = interaction[self.ITEM_SEQ_LEN].unsqueeze(1)
        last = interaction[self.ITEM_SEQ].gather(1, lengths - 1).squeeze(1)
        n_followers = self.starts[last + 1] - self.starts[last]
        rows = torch.arange(len(last), device=last.device).repeat_interleave(n_followers)
        first = n_followers.cumsum(0) - n_followers
        pairs = torch.arange(len(rows), device=last.device) - first[rows] + self.starts[last][rows]
        # Popularity is below 1, so that it orders only items that followed equally often.
        scores = (self.popularity / (self.popularity.max() + 1)).expand(len(last), -1).clone()
        scores[rows, self.followers[pairs]] += self.counts[pairs]
        scores[:, 0] = -torch.inf
        return scores

    def predict(self, interaction: Any) -> Tensor:
        """Score the given items after the given histories, float [B]."""
        items = interaction[self.ITEM_ID].unsqueeze(1)
        return self.full_sort_predict(interaction).gather(1, items).squeeze(1)


def count_transitions(sequences: Sequences, n_items: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count the training interactions of items, and pairs of items that follow each other.

    Returns:
        popularity: float64 [n_items].
        starts: int64 [n_items + 1]; the followers of item i are at starts[i] to starts[i + 1].
        followers: int64 [P], item ids, ascending for each item.
        counts: float64 [P], how often each follower came next, at least 1.
    """
    ends = sequences.starts[1:].repeat_interleave(sequences.lengths()) - 2
    position = torch.arange(len(sequences.items))
    popularity = torch.bincount(sequences.items[position < ends], minlength=n_items)
    has_next = torch.nonzero(position + 1 < ends).squeeze(1)
    pairs, counts = torch.unique(
        sequences.items[has_next] * n_items + sequences.items[has_next + 1], return_counts=True
    )
    n_followers = torch.bincount(pairs // n_items, minlength=n_items)
    starts = torch.cat((n_followers.new_zeros(1), n_followers.cumsum(0)))
    return popularity.double(), starts, pairs % n_items, counts.double()
