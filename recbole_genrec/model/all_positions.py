"""How histories enter the encoder, and the loss of all next items of a sequence in one pass (`train_mode: all_positions`)."""

# Shapes: B batch, T history length in items, E encoder tokens per item, S encoder tokens, P next
# items of a sequence, D hidden size

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from recbole_genrec.seq2seq.item_masks import before_targets, item_causal, item_positions


class EncoderInput(NamedTuple):
    """What the encoder is given.

    embeddings: float [B, S, D], S = context tokens + T * E.
    mask: bool [B, S], true where there is a token.
    places: int64 [S], which item a token belongs to (item_positions).
    """

    embeddings: Tensor
    mask: Tensor
    places: Tensor


def encoder_input(model, interaction) -> EncoderInput:
    """Embedded histories of a batch with the model's context before them."""
    item_id_list = interaction[model.ITEM_SEQ]
    embeddings = model.embed_history(item_id_list)
    n_items = item_id_list.shape[1]
    tokens_per_item = embeddings.shape[1] // n_items
    mask = (item_id_list > 0).repeat_interleave(tokens_per_item, dim=1)
    embeddings, mask = model.add_context(interaction, embeddings, mask)
    return EncoderInput(
        embeddings, mask, item_positions(mask.shape[1], n_items, tokens_per_item, mask.device)
    )


def all_positions_loss(model, interaction) -> Tensor:
    """Cross-entropy of the codes of all next items of a batch of sequences, averaged over the next items and their levels.

    It equals the mean over one row per next item, each with the history before it, of the same
    model (dropout aside).

    Args:
        interaction: as SequenceBatches makes them; the next items are [B, P], 0 = none.
    """
    item_ids = interaction[model.ITEM_ID]
    embeddings, _, places = encoder_input(model, interaction)
    memory = model.seq2seq.encode(embeddings, item_causal(places))
    n_levels = model.semantic_ids.n_levels
    seen = before_targets(places, interaction[model.ITEM_SEQ_LEN], item_ids, n_levels)
    is_real = (item_ids > 0).flatten()
    named = item_ids.flatten().clamp(
        min=1
    )  # any item's codes where there is no next item: choosing rows would wait for the device
    log_probs = model.target_log_probs(model.decode_targets(named, memory, seen), named)
    return -(log_probs * is_real.unsqueeze(1)).sum() / (is_real.sum() * n_levels)
