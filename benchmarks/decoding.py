"""Constrained beam search: ours beside transformers' generate with prefix_allowed_tokens_fn.

Shapes: B batch, W beams.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from recbole.data.interaction import Interaction

from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import Experiment, make_tiger, synchronize, t5_settings
from benchmarks.training import unpadded
from benchmarks.twin import PrefixTree, generate, make_twin, pad_histories

COMPILED, FULL_SOFTMAX = "ours, compiled", "ours, softmax over all tokens"
GOALS = {("small", 20): 20.0, ("papers'", 20): 12.0, ("small", 100): 20.0}
N_USERS, N_PLAIN_USERS, N_QUICK_USERS = 1024, 64, 8
N_PLAIN_BEAMS = 1280  # of a batch of transformers' search: 64 users with 20 beams
N_CHECKED = 8
TOLERANCE = 1e-3
MIN_AGREEMENT = 0.99  # beams of nearly equal probability may swap ranks


def cases(options: Options) -> list[Case]:
    return [
        Case(
            "decoding",
            f"decoding, {n_beams} beams, {size} T5, {dataset}",
            ("ours", COMPILED, FULL_SOFTMAX, "transformers"),
            {"size": size, "n_beams": n_beams, "dataset": dataset},
        )
        for dataset in options.datasets("amazon-instruments", "amazon-beauty")
        for size, n_beams in ([("small", 20)] if options.quick else GOALS)
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    settings = {**t5_settings(case.details["size"], options), "n_beams": case.details["n_beams"]}
    if contender in (FULL_SOFTMAX, "transformers"):
        settings["softmax_scope"] = "full"  # what generate has
    settings["compile_search"] = contender == COMPILED
    experiment = make_tiger(case.details["dataset"], settings, options)
    experiment.model.eval()
    return (prepare_generate if contender == "transformers" else prepare_ours)(experiment, options)


def evenly_spaced_users(experiment: Experiment, n_users: int) -> Interaction:
    """Return test users from the shortest to the longest history, in their evaluation order."""
    inter_feat = experiment.test.dataset.inter_feat
    rows = torch.linspace(0, len(inter_feat) - 1, min(n_users, len(inter_feat))).long()
    return inter_feat[rows].cut()


def search(experiment: Experiment, users: Interaction) -> tuple[torch.Tensor, torch.Tensor]:
    """Return our beams of a batch as in an evaluation: histories are cut to the longest."""
    model = experiment.model
    longest = int(users[model.ITEM_SEQ_LEN].max())
    users.interaction[model.ITEM_SEQ] = users[model.ITEM_SEQ][:, :longest]
    beams = model.search(users.to(experiment.config["device"]))
    return beams.item_ids.cpu(), beams.log_probs.cpu()


def prepare_ours(experiment: Experiment, options: Options) -> tuple[dict[str, Any], Measure]:
    """Prepare batches of `eval_batch_size` users, short histories first."""
    users, batch_size = (
        evenly_spaced_users(experiment, N_QUICK_USERS if options.quick else N_USERS),
        experiment.config["eval_batch_size"],
    )

    def measure(number: int) -> dict[str, float]:
        started = time.perf_counter()
        for start in range(0, len(users), batch_size):
            search(experiment, users[start : start + batch_size])
        synchronize(experiment.config["device"])
        return {"users_per_second": len(users) / (time.perf_counter() - started)}

    measure(0)
    return {"users": len(users), "batch_size": batch_size}, measure


def prepare_generate(experiment: Experiment, options: Options) -> tuple[dict[str, Any], Measure]:
    """Prepare batches of users in random order, padded to the longest history."""
    model, device, n_beams = (
        experiment.model,
        experiment.config["device"],
        experiment.config["n_beams"],
    )
    twin, tree = make_twin(model).eval(), PrefixTree(model.semantic_ids.tokens)
    users = evenly_spaced_users(experiment, N_QUICK_USERS if options.quick else N_USERS)
    users = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))]
    histories, pad = unpadded(users, model), pad_histories(model.semantic_ids.tokens.cpu())
    batch_size = max(1, N_PLAIN_BEAMS // n_beams)

    def decode(chosen: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        source, mask = pad(chosen)
        return generate(
            twin, tree, source.to(device), mask.to(device), n_beams, model.semantic_ids.n_levels
        )

    def measure(number: int) -> dict[str, float]:
        first = number * N_PLAIN_USERS % len(histories)
        chosen = histories[first : first + N_PLAIN_USERS]
        started = time.perf_counter()
        for start in range(0, len(chosen), batch_size):
            decode(chosen[start : start + batch_size])
        return {"users_per_second": len(chosen) / (time.perf_counter() - started)}

    agreement = check_items(search(experiment, users[:N_CHECKED]), decode(histories[:N_CHECKED]))
    return {
        "same_items": agreement,
        "users": min(N_PLAIN_USERS, len(histories)),
        "batch_size": batch_size,
    }, measure


def check_items(
    ours: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """Return the share of users and ranks with the same item in both searches.

    Args:
        ours: item ids [B, W] and log-probabilities [B, W].
        theirs: item ids [B, W] and log-probabilities [B, W].

    Raises:
        ValueError: the results differ, so the contenders do not do the same work.
    """
    agreement = float((ours[0] == theirs[0]).float().mean())
    difference = float((ours[1] - theirs[1]).abs().max())
    if agreement < MIN_AGREEMENT or not difference <= TOLERANCE:
        raise ValueError(
            f"with the same weights, {agreement:.1%} of the beams of our search and of "
            "transformers' are the same items, and their log-probabilities differ by up to "
            f"{difference:.2g}"
        )
    return agreement


def rows(results: list[Result]) -> list[Row]:
    table = []
    for result in results:
        figures = {
            contender: result.median(contender, "users_per_second")
            for contender in result.case.contenders
        }
        ours, compiled, full, theirs = figures.values()
        goal = ("ratio", ">=", GOALS[result.case.details["size"], result.case.details["n_beams"]])
        table.append(Row(result.case.title, "users/s", ours, theirs, goal))
        table.append(Row(f"{result.case.title}, compile_search", "users/s", compiled, theirs, goal))
        table.append(Row(f"{result.case.title}, softmax over all tokens", "users/s", full, theirs))
    return table
