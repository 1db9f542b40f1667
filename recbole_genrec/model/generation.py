"""From a history to the codes of its next items: training's log-probabilities and the ranking by beams."""

# Shapes: B batch, T history length in items, E encoder tokens per item, S encoder tokens, L levels,
# D hidden size, K items of a ranked list

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.model.all_positions import encoder_input
from recbole_genrec.runtime.precision import in_full_precision
from recbole_genrec.semantic_ids.trie import CompleteTree
from recbole_genrec.seq2seq.base import DecoderCache
from recbole_genrec.seq2seq.beam_search import Beams, beam_search
from recbole_genrec.seq2seq.compiled import SearchParts, compiled
from recbole_genrec.seq2seq.exact_search import exact_search
from recbole_genrec.seq2seq.item_masks import item_causal


class Generation:
    """What generates, of a model that has `config`, `semantic_ids`, `token_table`, `seq2seq` and `embed_history`."""

    compiled_parts: SearchParts | None = None  # with `compile_search`, once there was a search

    # --- history and target
    # -------------------------------------------------------------------------------

    def encode_history(
        self, interaction, encode: Callable[..., Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encoder states [B, S, D] and their mask [B, S] of a batch's histories, S = T * E; `encode` stands for `seq2seq.encode`."""
        embeddings, mask, places = encoder_input(self, interaction)
        seen = item_causal(places) if self.config["train_mode"] == "all_positions" else mask
        return (encode or self.seq2seq.encode)(embeddings, seen), mask

    def add_context(self, interaction, embeddings: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What stands before the history: embeddings [B, S, D] and mask [B, S] -> the same with more tokens; here nothing."""
        return embeddings, mask

    def decode_targets(self, item_ids: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [B, L, D] that predict the tokens of items [B], given the true tokens before them."""
        tokens = self.semantic_ids.tokens[item_ids]
        inputs = F.pad(tokens[:, :-1], (1, 0))  # token 0 starts the decoder
        return self.seq2seq.decode(self.token_table(inputs), memory, mask)

    @in_full_precision
    def level_log_probs(self, hidden: Tensor, level: int) -> Tensor:
        """Log-probabilities [..., codes of the level] from hidden states [..., D].

        With `softmax_scope: full` the probability is shared by the whole vocabulary, as in the
        published code; with `level` by the
        codes of the level alone. `tree` starts like `level`; search and `target_log_probs` then
        share it among the children of a prefix.
        """
        table = self.token_table.weight
        own = self.semantic_ids.level_tokens(level)
        if self.config["softmax_scope"] == "full":
            return (self._scaled(hidden @ table.T) / self.temperature()).log_softmax(-1)[..., own]
        return (self._scaled(hidden @ table[own].T) / self.temperature()).log_softmax(-1)

    def temperature(self) -> float:
        """Divisor of the logits of codes."""
        return self.config["generation_temperature"]

    def _scaled(self, logits: Tensor) -> Tensor:
        """T5 scales the logits of a table shared with the input by 1/sqrt(D)."""
        return logits * self.token_table.embedding_dim**-0.5

    def target_log_probs(self, hidden: Tensor, item_ids: Tensor) -> Tensor:
        """Log-probability of every code of items [B] from their hidden states [B, L, D]; float [B, L]."""
        ids, levels = self.semantic_ids, []
        for level in range(ids.n_levels):
            log_probs = self.level_log_probs(hidden[:, level], level)
            if self.config["softmax_scope"] == "tree":
                allowed = ids.trie.allowed(level, ids.trie.paths[level][item_ids - 1])
                log_probs = log_probs.masked_fill(~allowed, float("-inf")).log_softmax(-1)
            levels.append(log_probs.gather(1, ids.codes[item_ids, level : level + 1]))
        return torch.cat(levels, dim=1)

    def generation_loss(self, hidden: Tensor, item_ids: Tensor) -> Tensor:
        """Cross-entropy of the codes of items [B] from their hidden states [B, L, D], averaged over items and levels."""
        return -self.target_log_probs(hidden, item_ids).mean()

    # --- ranking
    # ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def search(self, interaction, k: int | None = None) -> Beams:
        """The next items that `n_beams` beams find for every history; with `scoring: exact` its k best (`n_beams` unless given)."""
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
        renormalize = self.config["softmax_scope"] == "tree" or bool(
            self.config["renormalize_trie"]
        )
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

    def recommend_topk(self, interaction, k: int) -> Tensor:
        """Distinct item ids [B, k], best first; 0 where an unconstrained beam is no item."""
        return self.search(interaction, k).item_ids[:, :k]

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items, float [B, n_items]: log-probabilities of the beams' items, -inf elsewhere."""
        beams = self.search(interaction)
        scores = beams.log_probs.new_full((len(beams.item_ids), self.n_items), float("-inf"))
        scores.scatter_(1, beams.item_ids, beams.log_probs)
        scores[:, 0] = float("-inf")
        return scores

    @torch.no_grad()
    def predict(self, interaction) -> Tensor:
        """Exact log-probability [B] of the given items after the given histories."""
        item_ids = interaction[self.ITEM_ID]
        hidden = self.decode_targets(item_ids, *self.encode_history(interaction))
        return self.target_log_probs(hidden, item_ids).sum(1)
