"""Cost of a larger catalogue: beam search time per user, trie bytes per item and level."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import RandomCatalogue, make_config, synchronize, t5_settings
from recbole_genrec.model.tiger import TIGER

N_ITEMS, QUICK_N_ITEMS = (10_000, 100_000, 1_000_000), (300, 3_000, 30_000)
N_USERS, N_QUICK_USERS, LENGTH = 512, 4, 10
MAX_GROWTH, MAX_BYTES = 1.3, 64.0


def cases(options: Options) -> list[Case]:
    sizes = QUICK_N_ITEMS if options.quick else N_ITEMS
    return [
        Case(
            "catalogue",
            "beam search, 20 beams, small T5",
            tuple(f"{n_items:,} items" for n_items in sizes),
        )
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    """Prepare a contender, which is a number of items; codes and histories are random."""
    n_items = int(contender.split()[0].replace(",", ""))
    config = make_config(
        "TIGER", "catalogue", {**t5_settings("small", options), "n_beams": 20}, options
    )
    init_seed(config["seed"], config["reproducibility"])
    model = TIGER(config, RandomCatalogue(n_items + 1)).to(config["device"])
    model.refresh_semantic_ids()
    model.eval()
    n_users = N_QUICK_USERS if options.quick else N_USERS
    users = random_users(model, n_users, torch.Generator().manual_seed(0)).to(config["device"])

    def measure(number: int) -> dict[str, float]:
        started = time.perf_counter()
        for start in range(0, n_users, config["eval_batch_size"]):
            model.search(users[start : start + config["eval_batch_size"]])
        synchronize(config["device"])
        return {"seconds_per_user": (time.perf_counter() - started) / n_users}

    measure(0)
    n_bytes = sum(
        tensor.untyped_storage().nbytes() for tensor in tensors_of(model.semantic_ids.trie)
    )
    return {
        "users": n_users,
        "bytes_per_item_and_level": n_bytes / n_items / model.semantic_ids.n_levels,
    }, measure


def random_users(model: TIGER, n_users: int, generator: torch.Generator) -> Interaction:
    """Return users with histories of LENGTH random items."""
    columns = {
        model.USER_ID: torch.arange(1, n_users + 1),
        model.ITEM_SEQ: torch.randint(1, model.n_items, (n_users, LENGTH), generator=generator),
        model.ITEM_SEQ_LEN: torch.full((n_users,), LENGTH),
    }
    return Interaction(columns)


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in the attributes of an object and their containers, each storage once."""
    seen: set[int] = set()
    waiting = list(vars(value).values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            if value.untyped_storage().data_ptr() not in seen:
                seen.add(value.untyped_storage().data_ptr())
                yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)


def rows(results: list[Result]) -> list[Row]:
    """Return time per user at every size, its growth from size to size, and the trie's bytes."""
    table = []
    for result in results:
        title, contenders = result.case.title, result.case.contenders
        seconds = {
            contender: result.median(contender, "seconds_per_user") for contender in contenders
        }
        table += [
            Row(f"{title}, {contender}", "ms per user", 1000 * seconds[contender])
            for contender in contenders
        ]
        for fewer, more in itertools.pairwise(contenders):
            goal = ("ours", "<=", MAX_GROWTH)
            table.append(
                Row(
                    f"{title}, {more}",
                    f"times the time of {fewer}",
                    seconds[more] / seconds[fewer],
                    goal=goal,
                )
            )
        for contender in contenders:
            n_bytes = result.facts[contender]["bytes_per_item_and_level"]
            table.append(
                Row(
                    f"prefix tree, {contender}",
                    "bytes per item and level",
                    n_bytes,
                    goal=("ours", "<=", MAX_BYTES),
                )
            )
    return table
