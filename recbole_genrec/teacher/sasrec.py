"""SASRec as a teacher: RecBole's class and weights, trained on all positions of a sequence at once.

RecBole trains SASRec on one row per (history, next item). The SASRec paper (Kang and McAuley, ICDM
2018, section III) predicts the next item at every position of a sequence in one pass. That is done
here: the same work in a fraction of the time.
"""

# Shapes: W windows, B batch, T longest history of the batch, P most next items of a window of the
# batch, D width

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.data.interaction import Interaction
from recbole.model.layers import FeedForward
from recbole.model.sequential_recommender import SASRec
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.batches import length_batches
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.sequences import Sequences, Windows
from recbole_genrec.errors import UserError
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.seq2seq.dropout import Dropout

SETTINGS = {
    "hidden_size": "teacher_hidden_size",
    "inner_size": "teacher_inner_size",
    "n_layers": "teacher_n_layers",
    "n_heads": "teacher_n_heads",
    "hidden_dropout_prob": "teacher_dropout_prob",
    "attn_dropout_prob": "teacher_dropout_prob",
    "learning_rate": "teacher_learning_rate",
    "train_batch_size": "teacher_batch_size",
    "epochs": "teacher_epochs",
    "stopping_step": "teacher_stopping_step",
}
"""RecBole's name of a setting -> its name in the run that the teacher belongs to."""

_N_POOL = 50


def sasrec_settings(config: GenRecConfig) -> dict[str, object]:
    """Return the settings of the teacher that differ from RecBole's defaults.

    Raises:
        UserError: teacher_epochs < 1, or teacher_hidden_size is no multiple of teacher_n_heads.
    """
    if config["teacher_epochs"] < 1:
        raise UserError(
            f"teacher_epochs is {config['teacher_epochs']}, but a teacher needs at least 1: "
            "raise it"
        )
    if config["teacher_hidden_size"] % config["teacher_n_heads"]:
        raise UserError(
            f"teacher_hidden_size is {config['teacher_hidden_size']}, but it must be a multiple of "
            f"teacher_n_heads ({config['teacher_n_heads']}): change one of them"
        )
    return {
        **{name: config[teacher_name] for name, teacher_name in SETTINGS.items()},
        "enable_amp": config["enable_amp"],
        "learner": "fused_adam",
        "metrics": ["Recall", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 12,  # rounded scores would tie and end the training early
    }


class SASRecTeacher(SASRec):
    """RecBole's SASRec with a stage for GenRecTrainer.

    Args:
        config: settings by RecBole's names.
        dataset: the data set with its sequences.
    """

    def __init__(self, config: GenRecConfig, dataset: GenRecDataset) -> None:
        super().__init__(config, dataset)
        self.dataset_fingerprint = dataset.fingerprint()
        self.settings = {
            name: config[name] for name in ("learning_rate", "epochs", "stopping_step")
        }
        self.batches = WindowBatches(
            dataset.sequences,
            config["MAX_ITEM_LIST_LENGTH"],
            config["train_batch_size"],
            config["seed"],
            (self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.ITEM_ID),
        )
        _speed_up(self)

    def stages(self) -> tuple[Stage, ...]:
        """Return the one stage: all weights with RecBole's Adam at a constant learning rate."""
        return (
            Stage(
                name="teacher",
                rows="sequences",
                batches=self.batches,
                groups=(Group(("",), self.settings["learning_rate"], weight_decay=0.0),),
                losses=self.losses,
                epochs=self.settings["epochs"],
                batch_size=self.batches.batch_size,
                scheduler="constant",
                warmup_epochs=0,
                stopping_step=self.settings["stopping_step"],
            ),
        )

    def losses(self, batch: Interaction) -> dict[str, Tensor]:
        """Return the mean cross-entropy over the catalogue of all next items of a batch."""
        history, targets = batch[self.ITEM_SEQ], batch[self.ITEM_ID]
        has_target = targets > 0
        length = batch[self.ITEM_SEQ_LEN][:, None]
        step = torch.arange(history.size(1), device=history.device)
        is_wanted = (step < length) & (step >= length - has_target.sum(1, keepdim=True))
        logits = self.hidden_states(history, is_wanted) @ self.item_embedding.weight.T
        return {"next_item": F.cross_entropy(logits, targets[has_target])}

    def hidden_states(self, history: Tensor, is_wanted: Tensor) -> Tensor:
        """Return the states of SASRec.forward at the wanted positions.

        Args:
            history: int64 [B, T], right-padded.
            is_wanted: bool [B, T], N of them True. The last feed-forward layer sees only these.

        Returns:
            float [N, D], row by row.
        """
        position = torch.arange(history.size(1), device=history.device)
        states = self.item_embedding(history) + self.position_embedding(position)
        states = self.dropout(self.LayerNorm(states))
        mask = self.get_attention_mask(history)
        *earlier, last = self.trm_encoder.layer
        for layer in earlier:
            states = layer(states, mask)
        return last.feed_forward(last.multi_head_attention(states, mask)[is_wanted])

    def full_sort_predict(self, batch: Interaction) -> Tensor:
        """Return the scores of all items, float [B, n_items], after the histories of a batch."""
        length = batch[self.ITEM_SEQ_LEN]
        history = batch[self.ITEM_SEQ][:, : int(length.max())]
        is_last = torch.arange(history.size(1), device=history.device) == length[:, None] - 1
        return self.hidden_states(history, is_last) @ self.item_embedding.weight.T


class WindowBatches:
    """Batches of the same number of windows with similar length.

    A batch is as of SequenceBatches, whose batches have about the same number of next items.

    Args:
        sequences: all but the last two items of each are trained.
        width: longest history, >= 1.
        batch_size: windows of a batch, >= 1.
        seed: >= 0; shuffling depends on (seed, epoch) only.
        fields: names of the user, history, history length and next item columns.
    """

    def __init__(
        self,
        sequences: Sequences,
        width: int,
        batch_size: int,
        seed: int,
        fields: tuple[str, str, str, str],
    ) -> None:
        self.sequences, self.fields = sequences, fields
        self.windows = strided_windows(sequences, width)
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.windows.length) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Interaction]:
        """Yield every window exactly once, in the order of this epoch (>= 0)."""
        lengths = self.windows.length
        for numbers in length_batches(lengths, self.batch_size, self.seed, epoch, _N_POOL):
            yield self.windows.select(numbers).cut(self.sequences, self.fields)


def strided_windows(sequences: Sequences, width: int) -> Windows:
    """Cut sequences at multiples of max(1, width // 2) into windows that train each target once.

    Unlike the windows of data/sequences.py, the last window of a long sequence is shorter, and
    users with fewer than four interactions have none.

    Args:
        sequences: the sequences; their last two items are held out.
        width: longest history, >= 1.
    """
    stride = max(1, width // 2)
    counts = (sequences.lengths() - 3).clamp(min=0)
    n_later = ((counts - width).clamp(min=0) + stride - 1) // stride
    n_windows = torch.where(counts > 0, 1 + n_later, 0)
    user = torch.repeat_interleave(n_windows)
    number = torch.arange(len(user)) - (n_windows.cumsum(0) - n_windows)[user]
    length = (counts[user] - number * stride).clamp(max=width)
    n_targets = torch.where(number > 0, length - (width - stride), length)
    return Windows(user, sequences.starts[user] + number * stride + length, length, n_targets)


def _speed_up(model: SASRec) -> None:
    """Replace RecBole's dropout and GELU by faster ones; neither has weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))
        if isinstance(module, FeedForward):
            module.intermediate_act_fn = F.gelu
