"""A deep interest network on item ids: how well a candidate fits a history, and an embedding of every item on the way.

Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018): every item of a
history is weighted by its match with
the candidate, without a softmax. The weighted items are summed in windows of recency, as in public
EAGER code.
"""

# Shapes: B batch, C candidates, T history length, R real history items of a batch, G windows, D
# embedding size, H hidden width

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from recbole_genrec.seq2seq.dropout import Dropout

INITIAL_DEVIATION = 0.02  # ours: cosines of the 1e-4 of EAGER would give gradients of 1e4
MOST_ENTRIES = 2**24  # of the largest matrix while the whole catalogue is scored


class Dice(nn.Module):
    """p x + (1 - p) a x with p = sigmoid of the standardized x and a trained slope a per column (Zhou et al. 2018, §5.3)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standardize = nn.BatchNorm1d(size, affine=False)
        self.slope = nn.Parameter(torch.zeros(size))

    def forward(self, states: Tensor) -> Tensor:
        """Rows [R, size]; every row counts in the batch statistics, so there must be no padding among them."""
        share = torch.sigmoid(self.standardize(states))
        return states * (share + (1 - share) * self.slope)


class InterestAttention(nn.Module):
    """Weight of a history item for a candidate: a network of [candidate; item; candidate - item; candidate * item].

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
        """Candidates [R, C, D] of history items [R, D] -> weights [R, C].

        The first layer is split: only its last quarter sees the product, the rest is linear in one
        of the two.
        """
        own, other, difference, product = self.first.weight.chunk(4, dim=1)
        hidden = torch.einsum(
            "rcd,rhd->rch", candidates, items.unsqueeze(1) * product + (own + difference)
        )
        hidden = hidden + (items @ (other - difference).T + self.first.bias).unsqueeze(1)
        return self.rest(hidden.flatten(0, 1)).view(candidates.shape[:2])


class DIN(nn.Module):
    """Scores of candidates after histories.

    Args:
        n_items: rows of the item table, padding (row 0) counted.
        size: D.
        attention_hidden_sizes: hidden layers of the attention.
        scorer: "mlp": a network of windows and candidate; "dot": the product of mapped windows and
            candidate.
        scorer_hidden_sizes: hidden layers of the "mlp".
        windows: how many items are summed together, oldest first; the last window ends with the
            newest item, and what is older
            than all windows belongs to the first. One window is sum pooling.
        dropout: between the layers of the "mlp".
    """

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
        if scorer == "dot":
            self.score = nn.Linear(len(windows) * size, size, bias=False)
        else:
            self.score = _scorer([(len(windows) + 1) * size, *scorer_hidden_sizes], dropout)
        # Recency 0 is the newest item's.
        window_of = torch.arange(len(windows)).repeat_interleave(torch.tensor(windows)).flip(0)
        self.register_buffer("window_of", window_of, persistent=False)
        self.n_windows = len(windows)

    def forward(self, histories: Tensor, candidates: Tensor) -> Tensor:
        """Histories [B, T] of item ids, 0 on the right of the shorter ones, and candidates [B, C] -> scores [B, C]."""
        wanted = self.table(candidates)
        real = histories > 0
        rows, places = real.nonzero(as_tuple=True)
        items = self.table(histories[rows, places])
        weights = wanted.new_zeros(*histories.shape, candidates.shape[1])
        weights[rows, places] = self.attention(wanted[rows], items).to(weights.dtype)
        recency = (real.sum(1, keepdim=True) - real.cumsum(1))[rows, places].clamp(
            max=len(self.window_of) - 1
        )
        windows = items.new_zeros(*histories.shape, self.n_windows, items.shape[1])
        windows[rows, places, self.window_of[recency]] = items
        interests = torch.einsum("btc,btgd->bcgd", weights, windows).flatten(2)
        if self.scorer == "dot":
            return (self.score(interests) * wanted).sum(-1)
        return self.score(torch.cat((interests, wanted), dim=-1).flatten(0, 1)).view(
            candidates.shape
        )

    @torch.no_grad()
    def rank(self, histories: Tensor, k: int) -> Tensor:
        """The k best items of the whole catalogue after every history, int64 [B, k], best first, in bounded memory."""
        catalogue = torch.arange(1, self.table.num_embeddings, device=histories.device)
        width = self.table.embedding_dim * max(histories.shape[1], self.n_windows + 1)
        n_candidates = max(1, MOST_ENTRIES // (len(histories) * width))
        scores = [
            self(histories, chunk.expand(len(histories), -1))
            for chunk in catalogue.split(n_candidates)
        ]
        return torch.cat(scores, dim=1).topk(k).indices + 1


def _scorer(sizes: list[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), Dice(n_out), Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
