"""Time and memory from interaction files to the first training batch.

    python -m benchmarks.data --data_path=folder/of/data/sets [--dataset=amazon-beauty]
        [--sizes 1000000,10000000] [--rounds 5]

Writes two tables. The first compares RecBole's path to the first batch of SASRec with ours on the
same files, in alternating rounds. The second has generated data of several sizes, each measured in
its own process. Run it from a checkout.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from warnings import simplefilter

SECONDS_BAR, GIGABYTES_BAR, RATIO_BAR = 240, 3.0, 0.5
N_INTERACTIONS_PER_USER, N_INTERACTIONS_PER_ITEM = 10, 50
COLUMNS = ["user_id", "item_id", "timestamp"]
LOADERS = {"LengthBatches": "TIGER", "TrainDataLoader": "SASRec"}


def first_batch_of_recbole(data_path: str, dataset: str) -> float:
    """Return the seconds of RecBole's own data set, split and loader."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    settings = {
        "data_path": data_path,
        "load_col": {"inter": COLUMNS},
        "MAX_ITEM_LIST_LENGTH": 20,
        "train_neg_sample_args": None,
    }
    config = Config(model="SASRec", dataset=dataset, config_dict=settings)
    started = time.perf_counter()
    train_data, _, _ = data_preparation(config, create_dataset(config))
    next(iter(train_data))
    return time.perf_counter() - started


def first_batch(data_path: str, dataset: str, loader: str) -> float:
    """Return the seconds of our data set, split and one of two kinds of training batches."""
    from recbole.data import data_preparation

    from recbole_genrec.config.settings import GenRecConfig
    from recbole_genrec.data.batches import LengthBatches
    from recbole_genrec.quick_start import create_dataset

    config = GenRecConfig(LOADERS[loader], dataset, config_dict={"data_path": data_path})
    started = time.perf_counter()
    train_data, _, _ = data_preparation(config, create_dataset(config))
    if loader == "TrainDataLoader":
        next(iter(train_data))
    else:
        fields = ("user_id", "item_id_list", "item_length", "item_id")
        sizes = (config["MAX_ITEM_LIST_LENGTH"], config["train_batch_size"])
        batches = LengthBatches(train_data.dataset.sequences, *sizes, config["seed"], fields)
        next(batches.epoch(0))
    return time.perf_counter() - started


def generate(folder: Path, n_interactions: int) -> None:
    """Write a data set: users of different activity, popular items, rows in time order."""
    import numpy as np
    import pandas as pd

    generator = np.random.default_rng(0)
    n_users, n_items = (
        n_interactions // N_INTERACTIONS_PER_USER,
        n_interactions // N_INTERACTIONS_PER_ITEM,
    )
    # Every user has four interactions, every item one; the others are random.
    users = np.concatenate(
        [
            np.tile(np.arange(n_users), 4),
            generator.integers(n_users, size=n_interactions - 4 * n_users),
        ]
    )
    popular = (n_items * generator.random(n_interactions - n_items) ** 3).astype(np.int64)
    items = np.concatenate([np.arange(n_items), popular])
    table = {
        "user_id:token": generator.permutation(users),
        "item_id:token": generator.permutation(items),
    }
    table["timestamp:float"] = 1_400_000_000 + np.arange(n_interactions)
    folder.mkdir(parents=True)
    frame = pd.DataFrame(table)
    for field, letter in (("user_id:token", "u"), ("item_id:token", "i")):
        names = np.array(
            [f"{letter}{number}" for number in range(frame[field].max() + 1)], dtype=object
        )
        frame[field] = names[frame[field]]
    frame.to_csv(folder / f"{folder.name}.inter", sep="\t", index=False)


def in_own_process(task: str, *arguments: str) -> dict:
    """Run a task of this file in its own process, so that its peak memory is its own too."""
    command = [sys.executable, "-m", "benchmarks.data", f"--task={task}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_task(arguments: argparse.Namespace) -> dict:
    """Run a task in this process and return its report."""
    from recbole_genrec.runtime.memory import keep_freed_memory

    logging.disable(logging.INFO)
    simplefilter("ignore")  # RecBole calls pandas and torch in deprecated ways
    keep_freed_memory()  # as a run does
    if arguments.task == "generate":
        generate(Path(arguments.data_path) / arguments.dataset, int(arguments.sizes))
        return {}
    if arguments.task == "compare":
        where = (arguments.data_path, arguments.dataset)
        rounds = [
            (first_batch_of_recbole(*where), first_batch(*where, "TrainDataLoader"))
            for _ in range(arguments.rounds + 1)
        ]
        recbole, ours = zip(*rounds[1:])  # the first warms up
        return {"recbole": recbole, "ours": ours}
    seconds = first_batch(arguments.data_path, arguments.dataset, arguments.task)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"seconds": seconds, "gigabytes": gigabytes, "process": time.process_time()}


def write_comparison(data_path: str, dataset: str, rounds: int) -> None:
    """Write the table that compares RecBole's path with ours."""
    result = in_own_process(
        "compare", f"--data_path={data_path}", f"--dataset={dataset}", f"--rounds={rounds}"
    )
    recbole, ours = median(result["recbole"]), median(result["ours"])
    sys.stdout.write(
        f"{dataset}, SASRec, from files to the first batch, medians of {rounds} alternating "
        "rounds\n"
        f"{'RecBole':>10} s {'ours':>10} s {'ratio':>10}   bar: {RATIO_BAR}\n"
        f"{recbole:>12.2f} {ours:>12.2f} {ours / recbole:>10.2f}\n\n"
    )


def write_sizes(sizes: list[int]) -> None:
    """Write the table of generated data."""
    sys.stdout.write(
        f"generated data, from the file to the first batch; bar: {SECONDS_BAR} s and "
        f"{GIGABYTES_BAR} GB\n"
        "CPU seconds count the whole process with its imports; load of the machine lengthens only "
        "the wall time\n"
        f"{'interactions':>14} {'batches':>16} {'wall s':>9} {'CPU s':>9} {'peak GB':>9} "
        f"{'CPU s per million':>18}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            files = (f"--data_path={folder}", f"--dataset=generated-{size}")
            in_own_process("generate", *files, f"--sizes={size}")
            for loader in LOADERS:
                result = in_own_process(loader, *files)
                sys.stdout.write(
                    f"{size:>14,} {loader:>16} {result['seconds']:>9.1f} "
                    f"{result['process']:>9.1f} {result['gigabytes']:>9.2f} "
                    f"{result['process'] / size * 1e6:>18.2f}\n"
                )
                sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_path", required=True, help="the folder that holds the folder of --dataset"
    )
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument(
        "--sizes", default="1000000,10000000", help="numbers of generated interactions"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task is not None:
        report = run_task(arguments)
        sys.stdout.write(f"\n{json.dumps(report)}\n")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    write_comparison(arguments.data_path, arguments.dataset, arguments.rounds)
    write_sizes([int(size) for size in arguments.sizes.split(",")])


if __name__ == "__main__":
    main()
