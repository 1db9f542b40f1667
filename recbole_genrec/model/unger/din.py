"""A deep interest network on item ids: how well a candidate fits a history.

Every item of a history is weighted by its match with the candidate, without a softmax (Zhou et al.,
"Deep Interest Network for Click-Through Rate Prediction", KDD 2018). The weighted items are summed
in windows of recency, as in public EAGER code. The item table is trained along.
"""

# Shapes: B batch, C candidates, T history length, R history items of a batch without padding, G
# windows, D embedding size, H hidden width.

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from recbole_genrec.seq2seq.dropout import Dropout

INITIAL_DEVIATION = 0.02  # ours: with EAGER's 1e-4, gradients of cosines would be about 1e4
MAX_ENTRIES = 2**24  # of the largest matrix while the whole catalogue is scored


class Dice(nn.Module):
    """p x + (1 - p) a x, with p = sigmoid of the standardized x and a trained slope a per column.

    Source: Zhou et al. 2018, section 5.3.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standardize = nn.BatchNorm1d(size, affine=False)
        self.slope = nn.Parameter(torch.zeros(size))

    def forward(self, states: Tensor) -> Tensor:
        """Activate states [R, size] without padding, because every row counts in the statistics."""
        share = torch.sigmoid(self.standardize(states))
        return states * (share + (1 - share) * self.slope)


class InterestAttention(nn.Module):
    """The weight of a history item for a candidate.

    It is a network of [candidate; item; candidate - item; candidate * item].

    Args:
        size: D.
        hidden_sizes: widths of the hidden layers, one or more.
    """

    def __init__(self, size: int, hidden_sizes: list[int]) -> None:
        super().__init__()
        self.first = nn.Linear(4 * size, hidden_sizes[0])
        layers: list[nn.Module] = [Dice(hidden_sizes[0])]
        for n_in, n_out in itertools.pairwise(hidden_sizes):
            layers += [nn.Linear(n_in, n_out), Dice(n_out)]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden_sizes[-1], 1))

    def forward(self, candidates: Tensor, items: Tensor) -> Tensor:
        """Return the weights [R, C] of history items [R, D] for candidates [R, C, D].

        The first layer is split to avoid its input [R, C, 4D]: only the last quarter of its weights
        sees the product, the other quarters are linear in the candidate or the item.
        """
        candidate, item, difference, product = self.first.weight.chunk(4, dim=1)  # [H, D] each
        per_candidate = items.unsqueeze(1) * product + (candidate + difference)  # [R, H, D]
        per_item = items @ (item - difference).T + self.first.bias  # [R, H]
        hidden = torch.einsum("rcd,rhd->rch", candidates, per_candidate) + per_item.unsqueeze(1)
        return self.rest(hidden.flatten(0, 1)).view(candidates.shape[:2])


class DIN(nn.Module):
    """Scores of candidates after histories.

    Args:
        n_items: rows of the item table, including padding (row 0).
        size: D.
        attention_hidden_sizes: hidden layers of the attention.
        scorer: `mlp`, a network of windows and candidate; or `dot`, the product of mapped windows
            and candidate.
        scorer_hidden_sizes: hidden layers of the `mlp`.
        windows: number of items in each window, oldest window first. The last window ends with the
            newest item; items older than all windows belong to the first. One window is sum
            pooling.
        dropout: rate between the layers of the `mlp`.
    """

    window_of: Tensor  # LongTensor [sum of windows], recency (0: the newest item) -> window

    def __init__(
        self,
        *,
        n_items: int,
        size: int,
        attention_hidden_sizes: list[int],
        scorer: str,
        scorer_hidden_sizes: list[int],
        windows: list[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items, size)
        nn.init.normal_(self.table.weight, std=INITIAL_DEVIATION)
        self.attention = InterestAttention(size, attention_hidden_sizes)
        self.scorer = scorer
        self.score: nn.Module
        if scorer == "dot":
            self.score = nn.Linear(len(windows) * size, size, bias=False)
        else:
            self.score = _mlp([(len(windows) + 1) * size, *scorer_hidden_sizes], dropout)
        self.n_windows = len(windows)
        oldest_first = torch.arange(self.n_windows).repeat_interleave(torch.tensor(windows))
        self.register_buffer("window_of", oldest_first.flip(0), persistent=False)

    def forward(self, histories: Tensor, candidates: Tensor) -> Tensor:
        """Score candidates after histories.

        Args:
            histories: item ids [B, T], oldest first, 0 on the right.
            candidates: item ids [B, C].

        Returns:
            Scores, float [B, C].
        """
        candidate_vectors = self.table(candidates)
        is_item = histories > 0
        # Padding enters no layer, so it is not in the batch statistics either.
        row, column = is_item.nonzero(as_tuple=True)
        items = self.table(histories[row, column])  # [R, D]

        weights = candidate_vectors.new_zeros(*histories.shape, candidates.shape[1])  # [B, T, C]
        # Mixed precision gives these weights in bfloat16.
        attended = self.attention(candidate_vectors[row], items).to(weights.dtype)
        weights[row, column] = attended

        recency = is_item.sum(1, keepdim=True) - is_item.cumsum(1)
        window = self.window_of[recency[row, column].clamp(max=len(self.window_of) - 1)]
        windows = items.new_zeros(*histories.shape, self.n_windows, items.shape[1])  # [B, T, G, D]
        windows[row, column, window] = items

        interests = torch.einsum("btc,btgd->bcgd", weights, windows).flatten(2)  # [B, C, G * D]
        if self.scorer == "dot":
            return (self.score(interests) * candidate_vectors).sum(-1)
        inputs = torch.cat((interests, candidate_vectors), dim=-1)
        return self.score(inputs.flatten(0, 1)).view(candidates.shape)

    @torch.no_grad()
    def rank(self, histories: Tensor, k: int) -> Tensor:
        """Return the k best items of the catalogue after every history, best first, int64 [B, k].

        Candidates are scored in chunks, so memory is bounded by `MAX_ENTRIES`.
        """
        catalogue = torch.arange(1, self.table.num_embeddings, device=histories.device)
        width = self.table.embedding_dim * max(histories.shape[1], self.n_windows + 1)
        n_candidates = max(1, MAX_ENTRIES // (len(histories) * width))
        scores = [
            self(histories, chunk.expand(len(histories), -1))
            for chunk in catalogue.split(n_candidates)
        ]
        return torch.cat(scores, dim=1).topk(k).indices + 1


def _mlp(sizes: list[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), Dice(n_out), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
