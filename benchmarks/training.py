"""Training examples per second: our trainer beside a plain loop around transformers' T5.

Also the share of the machine's peak that our trainer uses.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import matmul
from benchmarks.flops import training_flops
from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import Experiment, make_tiger, synchronize, t5_settings
from benchmarks.twin import make_twin, pad_histories, t5_size
from recbole_genrec.data.batches import LengthBatches, length_batches
from recbole_genrec.data.sequence_batches import SequenceBatches, window_batches
from recbole_genrec.runtime.precision import mixed_precision

GOALS = {"small": 8.0, "papers'": 7.0}
MIN_UTILISATION = 0.45
OURS = {
    "ours": {},
    "ours, bfloat16": {"enable_amp": True},
    "ours, all positions": {"train_mode": "all_positions"},
}
THEIRS = {"transformers": False, "transformers, bfloat16": True}  # True: with autocast
# Two plain batches are enough: nearly each has a history of full length, so they cost the same.
BATCH_SIZE, N_BATCHES, N_PLAIN_BATCHES = 256, 12, 2
QUICK_BATCH_SIZE, N_QUICK_BATCHES = 8, 2
N_CHECKED = 16
TOLERANCE = 1e-4


def cases(options: Options) -> list[Case]:
    return [
        Case(
            "training",
            f"training, {size} T5, {dataset}",
            ("matmul", *OURS, *THEIRS),
            {"size": size, "dataset": dataset},
        )
        for dataset in options.datasets("amazon-instruments", "amazon-beauty")
        for size in (["small"] if options.quick else GOALS)
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    if contender == "matmul":
        return matmul.prepare(contender, case, options)
    settings = t5_settings(case.details["size"], options)
    settings["train_batch_size"] = QUICK_BATCH_SIZE if options.quick else BATCH_SIZE
    # transformers' loss has the full softmax, and the losses are compared.
    settings.update(OURS.get(contender, {"softmax_scope": "full"}))
    experiment = make_tiger(case.details["dataset"], settings, options)
    n_batches = N_QUICK_BATCHES if options.quick else N_BATCHES
    if contender == "ours, all positions":
        return prepare_all_positions(experiment, n_batches)
    rows = evenly_spaced_rows(batches_of(experiment, slice(None)), n_batches)
    if contender in THEIRS:
        return prepare_plain_loop(experiment, rows, THEIRS[contender])
    return prepare_ours(experiment, rows)


def batches_of(experiment: Experiment, rows: Tensor | slice) -> LengthBatches:
    """Return the trainer's own batches of some of the training rows."""
    batches = experiment.trainer._batches(experiment.model.stages()[-1], experiment.train)
    batches.rows = batches.rows.select(rows)
    return batches


def evenly_spaced_rows(batches: LengthBatches, n_batches: int) -> Tensor:
    """Return rows of whole batches, evenly spaced by length, with the mean cost of the epoch."""
    epoch = length_batches(batches.rows.length, batches.batch_size, batches.seed, 0, batches.n_pool)
    whole = sorted(
        (rows for rows in epoch if len(rows) == batches.batch_size),
        key=lambda rows: int(batches.rows.length[rows].sum()),
    )
    n_batches = min(n_batches, len(whole))
    return torch.cat(
        [whole[(2 * number + 1) * len(whole) // (2 * n_batches)] for number in range(n_batches)]
    )


def prepare_ours(experiment: Experiment, rows: Tensor) -> tuple[dict[str, Any], Measure]:
    """Prepare one pass over the rows by the trainer."""
    model, trainer = experiment.model, experiment.trainer
    stage, batches, everything = (
        model.stages()[-1],
        batches_of(experiment, rows),
        batches_of(experiment, slice(None)),
    )
    optimizers = trainer._optimizers(stage, len(batches))

    def measure(number: int) -> dict[str, float]:
        started = time.perf_counter()
        trainer._train(stage, number, batches, optimizers, False)
        synchronize(experiment.config["device"])
        return {"examples_per_second": len(rows) / (time.perf_counter() - started)}

    measure(0)
    source_tokens = batches.rows.length * model.semantic_ids.n_levels
    flops = training_flops(t5_size(model), source_tokens, model.semantic_ids.level_sizes)
    facts = {
        "examples": len(rows),
        "mean_history": float(batches.rows.length.float().mean()),
        "mean_history_of_all": float(everything.rows.length.float().mean()),
        "flops_per_example": flops / len(rows),
    }
    return facts, measure


class ChosenBatches:
    """Evenly spaced batches of whole sequences, in the order of their sizes, fixed over epochs."""

    def __init__(self, batches: SequenceBatches, n_batches: int) -> None:
        self.seed, self.batches = batches.seed, batches
        lengths, n_targets = batches.windows.length, batches.windows.n_targets
        epoch = window_batches(
            lengths, n_targets, batches.batch_size, batches.seed, 0, batches.n_pool
        )
        epoch.sort(key=lambda windows: len(windows) * int(lengths[windows].max()))
        n_batches = min(n_batches, len(epoch))
        self.chosen = [
            epoch[(2 * number + 1) * len(epoch) // (2 * n_batches)] for number in range(n_batches)
        ]
        self.n_targets = int(n_targets[torch.cat(self.chosen)].sum())

    def __len__(self) -> int:
        return len(self.chosen)

    def epoch(self, epoch: int) -> Iterator[Interaction]:
        """Yield the chosen batches."""
        windows, sequences, fields = (
            self.batches.windows,
            self.batches.sequences,
            self.batches.fields,
        )
        return (windows.select(numbers).cut(sequences, fields) for numbers in self.chosen)


def prepare_all_positions(experiment: Experiment, n_batches: int) -> tuple[dict[str, Any], Measure]:
    """Prepare steps that train all next items of a sequence in one pass; an example is a target."""
    model, trainer = experiment.model, experiment.trainer
    stage = model.stages()[-1]
    batches = ChosenBatches(trainer._batches(stage, experiment.train), n_batches)
    optimizers = trainer._optimizers(stage, len(batches))

    def measure(number: int) -> dict[str, float]:
        started = time.perf_counter()
        trainer._train(stage, number, batches, optimizers, False)
        synchronize(experiment.config["device"])
        return {"examples_per_second": batches.n_targets / (time.perf_counter() - started)}

    measure(0)
    return {"examples": batches.n_targets}, measure


def prepare_plain_loop(
    experiment: Experiment, rows: Tensor, is_mixed: bool
) -> tuple[dict[str, Any], Measure]:
    """Prepare a plain loop: shuffled padded batches, AdamW, the loss read in every step."""
    model, config = experiment.model, experiment.config
    twin = make_twin(model)
    batch = experiment.train.dataset.inter_feat[rows].cut()
    examples = list(
        zip(map(torch.Tensor.clone, unpadded(batch, model)), batch[model.ITEM_ID].tolist())
    )
    item_tokens, device = model.semantic_ids.tokens.cpu(), config["device"]
    pad = pad_histories(item_tokens)

    def collate(chosen: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        source, mask = pad([history for history, _ in chosen])
        return {
            "input_ids": source,
            "attention_mask": mask,
            "labels": item_tokens[[item for _, item in chosen]],
        }

    loader = DataLoader(examples, config["train_batch_size"], shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(
        twin.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"]
    )

    def measure(number: int) -> dict[str, float]:
        twin.train()
        started, n_examples, total = time.perf_counter(), 0, 0.0
        for inputs in itertools.islice(loader, N_PLAIN_BATCHES):
            with mixed_precision(device, is_mixed):
                loss = twin(**{name: tensor.to(device) for name, tensor in inputs.items()}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            n_examples += len(inputs["labels"])
        return {"examples_per_second": n_examples / (time.perf_counter() - started)}

    facts = check_loss(experiment, twin, collate(examples[:N_CHECKED]), rows[:N_CHECKED])
    measure(0)
    return facts, measure


def unpadded(batch, model) -> list[Tensor]:
    """Return the histories of a batch without their padding."""
    return [
        history[:length]
        for history, length in zip(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN].tolist())
    ]


@torch.no_grad()
def check_loss(
    experiment: Experiment, twin: torch.nn.Module, inputs: dict[str, Tensor], rows: Tensor
) -> dict[str, float]:
    """Return the loss of some rows by both models, in evaluation mode.

    Raises:
        ValueError: the losses differ, so the contenders do not do the same work.
    """
    device, model = experiment.config["device"], experiment.model.eval()
    batch = experiment.train.dataset.inter_feat[rows].cut().to(device)
    ours = float(sum(model.losses(batch).values()))
    theirs = float(twin.eval()(**{name: tensor.to(device) for name, tensor in inputs.items()}).loss)
    if not abs(ours - theirs) <= TOLERANCE * max(1.0, abs(ours)):
        raise ValueError(
            f"the loss of {len(rows)} rows is {ours} by our model and {theirs} by transformers', "
            "with the same weights"
        )
    return {"loss": theirs, "loss_of_our_model": ours}


def rows(results: list[Result]) -> list[Row]:
    """Return examples per second in every mode, and the share of the matmul peak."""
    table = []
    for result in results:
        speed = {
            contender: result.median(contender, "examples_per_second")
            for contender in (*OURS, *THEIRS)
        }
        ours, theirs = speed["ours"], speed["transformers"]
        goal = ("ratio", ">=", GOALS[result.case.details["size"]])
        table.append(Row(result.case.title, "examples/s", ours, theirs, goal))
        mixed, whole = "bfloat16", "all positions"
        table.append(
            Row(
                f"{result.case.title}, {mixed}",
                "examples/s",
                speed[f"ours, {mixed}"],
                speed[f"transformers, {mixed}"],
                goal,
            )
        )
        table.append(
            Row(f"{result.case.title}, {whole}", "examples/s", speed[f"ours, {whole}"], theirs)
        )
        peak, flops = (
            result.median("matmul", "flops_per_second"),
            result.facts["ours"]["flops_per_example"],
        )
        goal = ("ours", ">=", 100 * MIN_UTILISATION)
        table.append(
            Row(
                f"{result.case.title}: of the matmul peak",
                "%",
                100 * ours * flops / peak,
                goal=goal,
            )
        )
    return table
