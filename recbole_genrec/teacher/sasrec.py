"""The teacher: RecBole's SASRec, trained on all positions of a sequence at once, and its item embeddings.

RecBole trains SASRec on one row per (history, next item); the SASRec paper (Kang and McAuley, ICDM
2018, section III) predicts the
next item at every position of a sequence in one pass. The second form is used here, with RecBole's
class and weights, because it
does the same work in a fraction of the time.
"""

# Shapes: U users, W windows, B batch, T positions, D width.

from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple

import torch
from recbole.model.layers import FeedForward
from recbole.model.sequential_recommender import SASRec
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from recbole_genrec.data.batches import length_batches
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.sequences import Sequences
from recbole_genrec.errors import UserError
from recbole_genrec.seq2seq.dropout import Dropout
from recbole_genrec.teacher.cache import Teacher, load_or_train
from recbole_genrec.teacher.recbole_model import train_recbole_teacher

logger = logging.getLogger(__name__)

# What RecBole's SASRec.yaml fixes beside the teacher_* settings.
_SASREC_CONSTANTS = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "loss_type": "CE",
}
_TEACHER_KEYS = (
    "teacher_hidden_size",
    "teacher_inner_size",
    "teacher_n_layers",
    "teacher_n_heads",
    "teacher_dropout_prob",
    "teacher_learning_rate",
    "teacher_batch_size",
    "teacher_epochs",
    "teacher_stopping_step",
)
_FIELD_KEYS = (
    "USER_ID_FIELD",
    "ITEM_ID_FIELD",
    "LIST_SUFFIX",
    "ITEM_LIST_LENGTH_FIELD",
    "NEG_PREFIX",
)
_N_POOL = 50
_EVALUATION_BATCH = 512


class Windows(NamedTuple):
    """inputs, targets: LongTensor [W, T], 0 = padding or no target here; lengths: LongTensor [W], inputs of each window."""

    inputs: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor


class Rows(NamedTuple):
    """history: LongTensor [U, T], right-padded; length: LongTensor [U]; target: LongTensor [U]."""

    history: torch.Tensor
    length: torch.Tensor
    target: torch.Tensor


def training_windows(sequences: Sequences, max_length: int) -> Windows:
    """Cut every user's training part (all but the last two items) into windows in which each next item is a target exactly once.

    A sequence that fits is one window. A longer one goes on in windows that overlap by half, so
    that a target has at least
    max_length // 2 items of history once the user has that many.
    """
    stride = max(1, max_length // 2)
    n_pairs = (sequences.lengths() - 3).clamp(min=0)
    n_extra = (n_pairs - max_length).clamp(min=0)
    n_windows = torch.where(n_pairs > 0, 1 + (n_extra + stride - 1) // stride, 0)
    user = torch.repeat_interleave(n_windows)
    number = torch.arange(len(user)) - (n_windows.cumsum(0) - n_windows)[user]
    lengths = (n_pairs[user] - number * stride).clamp(max=max_length)

    step = torch.arange(max_length)
    is_padding = step >= lengths[:, None]
    is_old = (number[:, None] > 0) & (step < max_length - stride)
    source = (sequences.starts[user] + number * stride)[:, None] + step
    inputs = sequences.items[source.masked_fill(is_padding, 0)].masked_fill(is_padding, 0)
    targets = sequences.items[(source + 1).masked_fill(is_padding, 0)].masked_fill(
        is_padding | is_old, 0
    )
    return Windows(inputs, targets, lengths)


def evaluation_rows(sequences: Sequences, max_length: int, part: str) -> Rows:
    """One row per user that RecBole's leave-one-out evaluates, shortest history first.

    part is "valid" (target: the last item but one; users with 4 interactions or more) or "test"
    (target: the last item, its history
    includes the validation target; users with 3 or more). The history is the last max_length items
    before the target.
    """
    n_after, shortest = {"valid": (2, 4), "test": (1, 3)}[part]
    users = torch.nonzero(sequences.lengths() >= shortest).squeeze(1)
    target = sequences.starts[users + 1] - n_after
    length = (target - sequences.starts[users]).clamp(max=max_length)
    order = torch.argsort(length, stable=True)
    target, length = target[order], length[order]
    step = torch.arange(max_length)
    is_padding = step >= length[:, None]
    source = ((target - length)[:, None] + step).masked_fill(is_padding, 0)
    return Rows(sequences.items[source].masked_fill(is_padding, 0), length, sequences.items[target])


def hidden_states(model: SASRec, item_seq: torch.Tensor, is_wanted: torch.Tensor) -> torch.Tensor:
    """SASRec.forward at the wanted positions.

    Args:
        item_seq: LongTensor [B, T], right-padded.
        is_wanted: BoolTensor [B, T], N of them True. The last feed-forward layer sees only these.

    Returns:
        FloatTensor [N, D], row by row.
    """
    position = torch.arange(item_seq.size(1), device=item_seq.device)
    states = model.item_embedding(item_seq) + model.position_embedding(position)
    states = model.dropout(model.LayerNorm(states))
    mask = model.get_attention_mask(item_seq)
    *earlier, last = model.trm_encoder.layer
    for layer in earlier:
        states = layer(states, mask)
    return last.feed_forward(last.multi_head_attention(states, mask)[is_wanted])


def position_loss(model: SASRec, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the catalogue at the positions with a target (> 0); inputs, targets LongTensor [B, T]."""
    has_target = targets > 0
    logits = hidden_states(model, inputs, has_target) @ model.item_embedding.weight.T
    return F.cross_entropy(logits, targets[has_target])


@torch.no_grad()
def evaluate(model: SASRec, rows: Rows) -> dict[str, float]:
    """Recall@10 and NDCG@10 over the whole catalogue; padding is no candidate, the user's history is."""
    model.eval()
    ranks = []
    for history, length, target in zip(*(column.split(_EVALUATION_BATCH) for column in rows)):
        history, target = history[:, : int(length.max())].to(model.device), target.to(model.device)
        is_last = (
            torch.arange(history.size(1), device=model.device)
            == length.to(model.device)[:, None] - 1
        )
        scores = hidden_states(model, history, is_last) @ model.item_embedding.weight.T
        scores[:, 0] = -torch.inf
        # "Not smaller" counts ties and NaN against the target, and the target itself, whose rank is
        # then at least 1.
        ranks.append((~(scores < scores.gather(1, target[:, None]))).sum(1))
    rank = torch.cat(ranks).double().cpu()
    hit = (rank <= 10).double()
    return {"recall@10": float(hit.mean()), "ndcg@10": float((hit / torch.log2(rank + 1)).mean())}


def train_teacher(config, dataset: GenRecDataset) -> Teacher:
    """Train SASRec on the training part of dataset, or load it from teacher_cache_dir when nothing has changed.

    Reads the teacher_* settings, MAX_ITEM_LIST_LENGTH, seed, device and show_progress. The epoch
    with the best validation NDCG@10
    is kept. The caller's random state is not touched.

    Raises:
        ValueError: teacher_epochs < 1, or teacher_hidden_size is no multiple of teacher_n_heads.
    """

    def train() -> dict:
        _check(config)
        device = torch.device(config["device"])
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(config["seed"])
            state_dict, metrics = _fit(config, dataset)
        return {"state_dict": state_dict, "metrics": metrics}

    saved, path = load_or_train(
        config["teacher_cache_dir"], "SASRec", dataset.dataset_name, _meta(config, dataset), train
    )
    item_embeddings = saved["state_dict"]["item_embedding.weight"].clone()
    item_embeddings[0] = 0
    return Teacher(item_embeddings, saved["metrics"], path)


def teacher_embeddings(config, dataset: GenRecDataset, model_name: str) -> torch.Tensor:
    """Item embeddings of a trained collaborative model, FloatTensor [n_items, D] (CPU), row 0 zeros, row i = internal item id i.

    "SASRec" is the one of this module (teacher_* settings); any other name a general or sequential
    recommender of RecBole, trained
    by RecBole's own trainer (teacher_settings).

    Raises:
        ValueError: see train_teacher and train_recbole_teacher.
    """
    train = (
        train_teacher
        if model_name == "SASRec"
        else partial(train_recbole_teacher, model_name=model_name)
    )
    return train(config, dataset).item_embeddings


def build_sasrec(config, dataset) -> SASRec:
    """RecBole's SASRec with the teacher_* settings and freshly initialised weights, on config["device"]."""
    settings = {key: config[key] for key in (*_FIELD_KEYS, "MAX_ITEM_LIST_LENGTH", "device")}
    for name in ("hidden_size", "inner_size", "n_layers", "n_heads"):
        settings[name] = config[f"teacher_{name}"]
    settings["hidden_dropout_prob"] = settings["attn_dropout_prob"] = config["teacher_dropout_prob"]
    model = SASRec({**settings, **_SASREC_CONSTANTS}, dataset)
    _speed_up(model)
    return model.to(config["device"])


def make_optimizer(config, model: SASRec) -> torch.optim.Optimizer:
    """RecBole's Adam, all weights in one call."""
    return torch.optim.Adam(model.parameters(), lr=config["teacher_learning_rate"], fused=True)


def _speed_up(model: SASRec) -> None:
    """Put dropout and GELU that cost less in the place of RecBole's; neither has weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, Dropout(child.p))
        if isinstance(module, FeedForward):
            module.intermediate_act_fn = F.gelu


def _fit(config, dataset: GenRecDataset) -> tuple[dict, dict]:
    """Train until validation NDCG@10 has not risen for over teacher_stopping_step epochs; return the best state_dict (CPU), metrics."""
    max_length = config["MAX_ITEM_LIST_LENGTH"]
    windows = training_windows(dataset.sequences, max_length)
    valid_rows = evaluation_rows(dataset.sequences, max_length, "valid")
    model = build_sasrec(config, dataset)
    optimizer = make_optimizer(config, model)
    best = {"ndcg@10": -1.0}
    epochs = tqdm(
        range(config["teacher_epochs"]),
        desc="Teacher SASRec",
        ncols=100,
        disable=not config["show_progress"],
    )
    for epoch in epochs:
        model.train()
        loss = _train_epoch(
            model, optimizer, windows, config["teacher_batch_size"], config["seed"], epoch
        )
        valid = evaluate(model, valid_rows)
        epochs.set_postfix_str(f"loss {loss:.4f} ndcg@10 {valid['ndcg@10']:.4f}")
        logger.info(
            "Teacher epoch %d: loss %.4f, valid ndcg@10 %.4f", epoch, loss, valid["ndcg@10"]
        )
        if valid["ndcg@10"] > best["ndcg@10"]:
            best, best_epoch = valid, epoch
            best_state = {
                name: value.detach().cpu().clone() for name, value in model.state_dict().items()
            }
        elif epoch - best_epoch > config["teacher_stopping_step"]:
            break
    epochs.close()
    model.load_state_dict(best_state)
    test = evaluate(model, evaluation_rows(dataset.sequences, max_length, "test"))
    return best_state, {
        "valid": best,
        "test": test,
        "best_epoch": best_epoch,
        "n_epochs": epoch + 1,
    }


def _train_epoch(
    model: SASRec, optimizer, windows: Windows, batch_size: int, seed: int, epoch: int
) -> float:
    """One pass over all windows; return the mean loss of a target."""
    total = torch.zeros((), device=model.device)
    for rows in length_batches(windows.lengths, batch_size, seed, epoch, _N_POOL):
        longest = int(windows.lengths[rows].max())
        inputs = windows.inputs[rows, :longest].to(model.device)
        targets = windows.targets[rows, :longest].to(model.device)
        loss = position_loss(model, inputs, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * (targets > 0).sum()
    return float(total) / int((windows.targets > 0).sum())


def _meta(config, dataset: GenRecDataset) -> dict:
    meta = {key: config[key] for key in (*_TEACHER_KEYS, "MAX_ITEM_LIST_LENGTH", "seed")}
    return {"format": 2, "dataset": dataset.fingerprint(), **meta}


def _check(config) -> None:
    if config["teacher_epochs"] < 1:
        raise UserError(
            f"teacher_epochs is {config['teacher_epochs']}, but a teacher needs at least 1: raise it"
        )
    if config["teacher_hidden_size"] % config["teacher_n_heads"]:
        raise UserError(
            f"teacher_hidden_size is {config['teacher_hidden_size']}, but it must be a multiple of teacher_n_heads "
            f"({config['teacher_n_heads']}): change one of them"
        )
