"""From a history to the codes of its next items: log-probabilities for training, beams to rank."""

# Shapes: B batch, T history length in items, E encoder tokens per item, S encoder tokens, P next
# items of a window, L levels, D hidden size, K items of a ranked list

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.runtime.precision import in_full_precision
from recbole_genrec.semantic_ids.semantic_ids import SemanticIDs
from recbole_genrec.semantic_ids.trie import CompleteTree
from recbole_genrec.seq2seq.base import DecoderCache
from recbole_genrec.seq2seq.beam_search import Beams, beam_search
from recbole_genrec.seq2seq.compiled import SearchParts, compiled
from recbole_genrec.seq2seq.exact_search import exact_search
from recbole_genrec.seq2seq.item_masks import before_targets, item_causal, item_positions


class EncoderInput(NamedTuple):
    """Embedded histories of a batch.

    embeddings: float [B, S, D], S = context tokens + T * E.
    mask: bool [B, S], true where there is a token.
    positions: int64 [S], the item that a token belongs to (item_positions).
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor


class Generation:
    """Mixin for generation and ranking.

    The model provides `config`, `semantic_ids`, `token_table`, `seq2seq`, `embed_history` and
    RecBole's `n_items` and names of columns.
    """

    config: Any
    semantic_ids: SemanticIDs
    token_table: nn.Embedding
    seq2seq: Any
    n_items: int
    ITEM_ID: str
    ITEM_SEQ: str
    ITEM_SEQ_LEN: str
    embed_history: Callable[[Tensor], Tensor]
    compiled_parts: SearchParts | None = None  # made by the first search with `compile_search`

    # --- history and target

    def encoder_input(self, interaction: Any) -> EncoderInput:
        """Return the embedded histories of a batch, behind the model's context."""
        histories = interaction[self.ITEM_SEQ]
        embeddings, n_items = self.embed_history(histories), histories.shape[1]
        tokens_per_item = embeddings.shape[1] // n_items
        mask = (histories > 0).repeat_interleave(tokens_per_item, dim=1)
        embeddings, mask = self.add_context(interaction, embeddings, mask)
        positions = item_positions(mask.shape[1], n_items, tokens_per_item, mask.device)
        return EncoderInput(embeddings, mask, positions)

    def encode_history(
        self, interaction: Any, encode: Callable[..., Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return encoder states [B, S, D] of a batch's histories and their mask [B, S].

        `encode` stands in for `seq2seq.encode`.
        """
        embeddings, mask, positions = self.encoder_input(interaction)
        seen = item_causal(positions) if self.config["train_mode"] == "all_positions" else mask
        return (encode or self.seq2seq.encode)(embeddings, seen), mask

    def add_context(
        self, interaction: Any, embeddings: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put tokens before the histories; here none.

        Args:
            interaction: the batch.
            embeddings: float [B, T * E, D].
            mask: bool [B, T * E].

        Returns:
            Both with the same number of tokens more.
        """
        return embeddings, mask

    def decode_targets(self, item_ids: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Return hidden states [B, L, D] that predict the tokens of items [B].

        The decoder is given the true tokens before each (teacher forcing).
        """
        tokens = self.semantic_ids.tokens[item_ids]
        inputs = F.pad(tokens[:, :-1], (1, 0))  # token 0 starts the decoder
        return self.seq2seq.decode(self.token_table(inputs), memory, mask)

    @in_full_precision
    def level_log_probs(self, hidden: Tensor, level: int) -> Tensor:
        """Return log-probabilities [..., codes of the level] from hidden states [..., D].

        `softmax_scope` is what shares the probability: the whole vocabulary (`full`, as in TIGER's
        published code) or the codes of the level (`level`). `tree` starts like `level`; search and
        `target_log_probs` then renormalize among the children of a prefix.
        """
        table, temperature = self.token_table.weight, self.config["generation_temperature"]
        own = self.semantic_ids.level_tokens(level)
        if self.config["softmax_scope"] == "full":
            return (self._scaled(hidden @ table.T) / temperature).log_softmax(-1)[..., own]
        return (self._scaled(hidden @ table[own].T) / temperature).log_softmax(-1)

    def _scaled(self, logits: Tensor) -> Tensor:
        """Scale logits by 1/sqrt(D), as T5 does for a table shared with the input."""
        return logits * self.token_table.embedding_dim**-0.5

    def target_log_probs(self, hidden: Tensor, item_ids: Tensor) -> Tensor:
        """Return log-probabilities [B, L] of the codes of items [B] from their states [B, L, D]."""
        ids, levels = self.semantic_ids, []
        for level in range(ids.n_levels):
            log_probs = self.level_log_probs(hidden[:, level], level)
            if self.config["softmax_scope"] == "tree":
                allowed = ids.trie.allowed(level, ids.trie.paths[level][item_ids - 1])
                log_probs = log_probs.masked_fill(~allowed, float("-inf")).log_softmax(-1)
            levels.append(log_probs.gather(1, ids.codes[item_ids, level : level + 1]))
        return torch.cat(levels, dim=1)

    def generation_loss(self, hidden: Tensor, item_ids: Tensor) -> Tensor:
        """Return the cross-entropy of the codes of items [B], averaged over items and levels.

        Args:
            hidden: hidden states [B, L, D] of decode_targets.
            item_ids: int64 [B].
        """
        return -self.target_log_probs(hidden, item_ids).mean()

    def all_positions_loss(self, interaction: Any) -> Tensor:
        """Return the cross-entropy of the codes of all next items of a batch of windows.

        The mean is over next items and levels. It equals the mean of the same model over one row
        per next item, each with the history before it (dropout aside).

        Args:
            interaction: a batch of SequenceBatches; its next items are [B, P], 0 = none.
        """
        item_ids, n_levels = interaction[self.ITEM_ID], self.semantic_ids.n_levels
        embeddings, _, positions = self.encoder_input(interaction)
        memory = self.seq2seq.encode(embeddings, item_causal(positions))
        seen = before_targets(positions, interaction[self.ITEM_SEQ_LEN], item_ids, n_levels)
        is_target = (item_ids > 0).flatten()
        # No target: the codes of item 1 are scored and then ignored, for a selection of rows would
        # make the host wait for the device.
        targets = item_ids.flatten().clamp(min=1)
        hidden = self.decode_targets(targets, memory, seen)
        log_probs = self.target_log_probs(hidden, targets) * is_target.unsqueeze(1)
        return -log_probs.sum() / (is_target.sum() * n_levels)

    # --- ranking

    @torch.no_grad()
    def search(self, interaction: Any, k: int | None = None) -> Beams:
        """Return the next items that `n_beams` beams find for every history.

        With `scoring: exact` they are the exact k best (`n_beams` unless given).
        """
        parts = self._search_parts()
        memory, mask = self.encode_history(interaction, parts.encode)
        cache = self.seq2seq.start_cache(memory, mask)

        def step(
            cache: DecoderCache, level: int, codes: Tensor | None, parents: Tensor | None
        ) -> Tensor:
            if codes is None or parents is None:
                tokens = torch.zeros(len(memory), 1, dtype=torch.long, device=memory.device)
            else:
                cache.follow(parents)
                tokens = codes + self.semantic_ids.offsets[level - 1]
            return self.level_log_probs(parts.step(self.token_table(tokens), cache), level)

        trie, n_beams = self.semantic_ids.trie, self.config["n_beams"]
        is_tree = self.config["softmax_scope"] == "tree"
        renormalize = is_tree or bool(self.config["renormalize_trie"])
        if self.config["scoring"] == "exact":
            return exact_search(step, cache, trie, n_beams, k or n_beams, renormalize)
        tree = trie if self.config["constrained"] else CompleteTree(trie)
        return beam_search(partial(step, cache), tree, n_beams, renormalize)

    def _search_parts(self) -> SearchParts:
        if not self.config["compile_search"]:
            return SearchParts(self.seq2seq.encode, self.seq2seq.step)
        if self.compiled_parts is None:
            self.compiled_parts = compiled(self.seq2seq)
        return self.compiled_parts

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return scores of all items, float [B, n_items].

        They are log-probabilities for the items of the beams, -inf for all others.
        """
        beams = self.search(interaction)
        scores = beams.log_probs.new_full((len(beams.item_ids), self.n_items), float("-inf"))
        scores.scatter_(1, beams.item_ids, beams.log_probs)
        scores[:, 0] = float("-inf")
        return scores

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Return the exact log-probability [B] of the batch's items after its histories."""
        item_ids = interaction[self.ITEM_ID]
        hidden = self.decode_targets(item_ids, *self.encode_history(interaction))
        return self.target_log_probs(hidden, item_ids).sum(1)
