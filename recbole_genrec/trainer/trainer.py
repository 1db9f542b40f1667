"""The one training loop: stages, epochs, early stopping, checkpoints, logging and resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import dict2str, early_stopping
from tqdm import tqdm

from recbole_genrec.compat import NullWriter, tensorboard_writer, without_anomaly_detection
from recbole_genrec.data.batches import ItemBatches, LengthBatches, to_device
from recbole_genrec.data.sequence_batches import SequenceBatches
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.model.stage import Batches, Stage
from recbole_genrec.runtime import distributed
from recbole_genrec.runtime.precision import mixed_precision
from recbole_genrec.trainer.checkpoint import load_checkpoint, new_checkpoint_path, save_checkpoint
from recbole_genrec.trainer.collector import TopKCollector
from recbole_genrec.trainer.optimizer import StageOptimizer, training_only
from recbole_genrec.trainer.progress import Progress, check_same_settings
from recbole_genrec.trainer.ranker import Ranker

logger = logging.getLogger(__name__)


class GenRecTrainer(Trainer):
    """Train a model stage by stage and evaluate it with RecBole's evaluator.

    `saved_model_file` holds the best weights; a killed run continues from `resume_file`.

    A model needs `stages()`, `dataset_fingerprint` and RecBole's `n_items`, `USER_ID`, `ITEM_SEQ`,
    `ITEM_SEQ_LEN` and `ITEM_ID`. If it has a `seq2seq`, several processes share the rows of a
    batch. If it has a `search`, its ranked lists are evaluated, otherwise the scores of its
    `full_sort_predict`.
    """

    def __init__(self, config, model) -> None:
        with tensorboard_writer(None if distributed.is_main() else NullWriter()):
            super().__init__(config, model)
        distributed.synchronize(model)
        self.eval_collector = TopKCollector(config)
        self.saved_model_file = distributed.broadcast(str(new_checkpoint_path(config)))
        self.resume_file = _resume_file(self.saved_model_file)
        self.progress = Progress()
        self.proven_share: float | None = None  # of the ranked lists of the last evaluation
        self.optimizer_states: list[dict[str, Any]] = []
        self._ranker: Ranker | None = None
        if hasattr(model, "search"):
            self._ranker = Ranker(model, max(config["topk"]), self.device)
        self._clock = time.time()

    def _build_optimizer(self, **kwargs) -> None:
        """Build nothing: every stage has optimizers of its own."""

    # --- stages

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn=None,
    ):
        """Run all stages that are not done; arguments and result as in RecBole's Trainer.fit.

        Only `dataset` is read of train_data: the stages cut their own batches.

        Raises:
            UserError: if a loss becomes NaN or infinite.
        """
        self.eval_collector.data_collect(train_data)
        for stage in self.model.stages()[self.progress.stage :]:
            self._clock = time.time()
            self._run(stage, train_data, valid_data, show_progress, callback_fn)
            self._finish(stage)
        return self.progress.best_score, self.progress.best_result

    def _run(self, stage: Stage, train_data, valid_data, show_progress: bool, callback_fn) -> None:
        """Run the epochs of a stage that are not done."""
        progress = self.progress
        if progress.epoch == 0:
            self._start(stage)
        batches = self._batches(stage, train_data)
        optimizers = self._optimizers(stage, len(batches))
        for optimizer, state in zip(optimizers, self.optimizer_states):
            optimizer.optimizer.load_state_dict(state)
        self.optimizer_states = []
        with without_anomaly_detection():
            for epoch in self._epochs(stage, show_progress):
                started = time.time()
                losses = self._train(stage, epoch, batches, optimizers, show_progress)
                if self._validates(stage, epoch, valid_data):
                    self._validate(stage, epoch, valid_data, show_progress, callback_fn)
                progress.epoch = epoch + 1
                if (
                    progress.epoch % stage.report_every == 0
                    or progress.epoch == stage.epochs
                    or progress.stopped
                ):
                    self._report(stage, epoch, losses, time.time() - started)
                    self._count_seconds(stage)
                    self._save_progress(
                        [optimizer.optimizer.state_dict() for optimizer in optimizers]
                    )
                if progress.stopped:
                    break

    def _start(self, stage: Stage) -> None:
        """Prepare the first epoch."""
        if stage.start is not None:
            stage.start()
            distributed.broadcast_state(self.model)
        if stage.epochs and not stage.keeps_best:
            self.progress.best_score = self.progress.best_result = None

    def _finish(self, stage: Stage) -> None:
        """Return to the best weights if there are any, and hand over to the next stage."""
        progress = self.progress
        validated = stage.stopping_step is not None and progress.best_score is not None
        if validated:
            self._load_weights(self.saved_model_file)
        if stage.finish is not None:
            stage.finish()
            distributed.broadcast_state(self.model)
        if not validated:
            self._save_weights()
        self._count_seconds(stage)
        logger.info(
            "stage %s: done after %d epochs, %.1f s",
            stage.name,
            progress.epoch,
            progress.seconds[stage.name],
        )
        progress.stage += 1
        progress.epoch = progress.bad_validations = 0
        progress.stopped = False
        self._save_progress([])

    def _count_seconds(self, stage: Stage) -> None:
        """Add the time since the last call to the stage's total."""
        now, seconds = time.time(), self.progress.seconds
        seconds[stage.name] = seconds.get(stage.name, 0.0) + now - self._clock
        self._clock = now

    # --- one epoch

    def _epochs(self, stage: Stage, show_progress: bool) -> Iterable[int]:
        """Return the epochs left, with a bar over them where an epoch is short."""
        if self.progress.stopped:
            return ()
        epochs = range(self.progress.epoch, stage.epochs)
        return (
            tqdm(epochs, desc=stage.name, ncols=100)
            if show_progress and stage.rows == "items"
            else epochs
        )

    def _batches(self, stage: Stage, train_data) -> Batches:
        if stage.batches is not None:
            return stage.batches
        seed = self.config["seed"] + self.progress.stage
        if stage.rows == "items":
            return ItemBatches(self.model.n_items, stage.batch_size, seed, self.device)
        model, sequences = self.model, train_data.dataset.sequences
        fields = (model.USER_ID, model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.ITEM_ID)
        batches = SequenceBatches if stage.rows == "sequences" else LengthBatches
        width = self.config["MAX_ITEM_LIST_LENGTH"]
        return batches(sequences, width, stage.batch_size, seed, fields)

    def _optimizers(self, stage: Stage, n_batches: int) -> list[StageOptimizer]:
        """Make an optimizer for every phase of a stage, or one for a stage without phases."""
        max_norm = None if self.clip_grad_norm is None else self.clip_grad_norm["max_norm"]
        return [
            StageOptimizer(self.model, phase, self.learner, max_norm, n_batches)
            for phase in stage.phases or (stage,)
        ]

    def _train(
        self,
        stage: Stage,
        epoch: int,
        batches,
        optimizers: list[StageOptimizer],
        show_progress: bool,
    ) -> dict[str, float]:
        """Train on every batch once and return the mean of every loss term."""
        if stage.before_epoch is not None:
            stage.before_epoch(epoch)
        number, n_earlier = stage.turn(epoch)
        phase, optimizer = stage.phases[number] if stage.phases else stage, optimizers[number]
        totals: dict[str, torch.Tensor] = {}
        bar = show_progress and stage.rows != "items"
        steps = tqdm(
            batches.epoch(epoch),
            total=len(batches),
            desc=f"{stage.name} {epoch}",
            ncols=100,
            disable=not bar,
        )
        with training_only(self.model, phase.groups), self._split_rows(batches.seed, epoch):
            for step, batch in enumerate(steps, start=n_earlier * len(batches)):
                with mixed_precision(self.device, self.enable_amp):
                    losses = phase.losses(to_device(batch, self.device))
                optimizer.step(reduce(torch.add, losses.values()), step)
                for name, loss in losses.items():
                    totals[name] = totals.get(name, 0.0) + loss.detach()
        means = {name: float(total) / len(batches) for name, total in totals.items()}
        if not all(math.isfinite(mean) for mean in means.values()):
            raise UserError(
                f"stage {stage.name}, epoch {epoch}: a loss is not finite ({means}); "
                "lower its learning rate."
            )
        if stage.after_epoch is not None:
            stage.after_epoch(epoch)
        return means

    def _split_rows(self, seed: int, epoch: int) -> AbstractContextManager:
        """Let several processes share the rows of a batch, if the model has a seq2seq."""
        seq2seq = getattr(self.model, "seq2seq", None)
        return nullcontext() if seq2seq is None else distributed.split_rows(seq2seq, seed, epoch)

    def _validate(
        self, stage: Stage, epoch: int, valid_data, show_progress: bool, callback_fn
    ) -> None:
        """Measure on the validation part, keep the best weights and decide whether to stop."""
        progress = self.progress
        score, result, bigger = self._score(stage, valid_data, show_progress)
        logger.info("stage %s epoch %d: valid %s", stage.name, epoch, dict2str(result))
        no_score = -math.inf if bigger else math.inf
        best = no_score if progress.best_score is None else progress.best_score
        best, progress.bad_validations, progress.stopped, improved = early_stopping(
            score, best, progress.bad_validations, max_step=stage.stopping_step, bigger=bigger
        )
        if improved:
            progress.best_score = float(best)
            progress.best_result = {name: float(value) for name, value in result.items()}
            self._save_weights()
        self.tensorboard.add_scalar(
            f"{stage.name}/{'validation' if stage.validate else self.valid_metric}", score, epoch
        )
        if callback_fn is not None:
            callback_fn(epoch, score)

    def _score(
        self, stage: Stage, valid_data, show_progress: bool
    ) -> tuple[float, dict[str, float], bool]:
        if stage.validate is None:
            score, result = self._valid_epoch(valid_data, show_progress=show_progress)
            return score, result, self.valid_metric_bigger
        self.model.eval()
        score = distributed.broadcast(stage.validate(valid_data))
        return score, {stage.name: score}, True

    def _validates(self, stage: Stage, epoch: int, valid_data) -> bool:
        """Tell whether an epoch ends with a validation.

        That is every `eval_step`-th epoch (or cycle of epochs, if there are phases) and the last
        one; none if `eval_step` is 0.
        """
        due = self.eval_step > 0 and (
            (epoch + 1) % (self.eval_step * stage.cycle_epochs()) == 0 or epoch + 1 == stage.epochs
        )
        return stage.stopping_step is not None and bool(valid_data) and due

    def _report(self, stage: Stage, epoch: int, losses: dict[str, float], seconds: float) -> None:
        terms = ", ".join(f"{name} {loss:.5g}" for name, loss in losses.items())
        phase = f"/{stage.phases[stage.turn(epoch)[0]].name}" if stage.phases else ""
        name = f"{stage.name}{phase}"
        logger.info("stage %s epoch %d: %.1f s, losses: %s", name, epoch, seconds, terms)
        for term, loss in losses.items():
            self.tensorboard.add_scalar(f"{name}/{term}", loss, epoch)

    # --- evaluation

    def _full_sort_batch_eval(self, batched_data):
        """Return a Ranking in place of RecBole's dense scores, if the model searches."""
        if self._ranker is None:
            return super()._full_sort_batch_eval(batched_data)
        batch, _, positive_users, positive_items = batched_data
        return batch, self._ranker.rank(batch), positive_users, positive_items

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Evaluate as RecBole's Trainer.evaluate.

        Raises:
            UserError: the checkpoint belongs to another model or data set.
        """
        if eval_data and load_best_model:
            self._load_weights(model_file or self.saved_model_file)
        self.model.eval()
        if self._ranker is not None:
            self._ranker.start(eval_data or ())
        result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        if self._ranker is not None:
            self.proven_share = self._ranker.finish()
        return result

    # --- checkpoints

    def _save_weights(self) -> None:
        content = {
            **self._identity(),
            "settings": self.config.settings(),
            "state_dict": self.model.state_dict(),
        }
        if distributed.is_main():
            save_checkpoint(self.saved_model_file, content)

    def _load_weights(self, path: str) -> None:
        if distributed.is_main():
            self.model.load_state_dict(
                load_checkpoint(path, self.device, **self._identity())["state_dict"]
            )
        distributed.broadcast_state(self.model)

    def _save_progress(self, optimizer_states: list[dict[str, Any]]) -> None:
        content = {
            **self._identity(),
            "settings": self.config.settings(),
            "state_dict": self.model.state_dict(),
            "optimizer": optimizer_states,
            "progress": asdict(self.progress),
            "random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state(self.device)
            if self.device.type == "cuda"
            else None,
            "n_processes": distributed.size(),
        }
        if distributed.is_main():
            save_checkpoint(self.resume_file, content)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Continue where a run was when it wrote `resume_file`.

        On a CPU the result equals the result of an undisturbed run.

        Raises:
            MissingFileError: the file or the file of the best weights is missing.
            UserError: the file belongs to another model, data set or settings.
        """
        content = load_checkpoint(resume_file, "cpu", **self._identity())
        check_same_settings(
            self.config.with_defaults(content["settings"]), self.config.settings(), resume_file
        )
        self.model.load_state_dict(content["state_dict"])
        self.progress = Progress(**content["progress"])
        self.optimizer_states = content["optimizer"]
        self._set_files(str(resume_file))
        torch.set_rng_state(content["random_state"])
        if content.get("cuda_random_state") is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_random_state"], self.device)
        n_processes = content.get("n_processes", 1)
        if n_processes != distributed.size():
            logger.warning(
                "%s was written by %d processes and %d continue: dropout draws other numbers",
                resume_file,
                n_processes,
                distributed.size(),
            )
        logger.info(
            "resumed from %s: stage %d, epoch %d",
            resume_file,
            self.progress.stage,
            self.progress.epoch,
        )

    def _set_files(self, resume_file: str) -> None:
        """Write to the files of the run that is resumed; they may have been moved together."""
        weights = resume_file.removesuffix(".resume.pth") + ".pth"
        if self.progress.best_score is not None and not Path(weights).is_file():
            raise MissingFileError(
                f"{resume_file!r} needs the best weights so far, but there is no {weights!r}: "
                "move both files together"
            )
        self.saved_model_file, self.resume_file = weights, _resume_file(weights)

    def _identity(self) -> dict[str, str]:
        return {
            "model": self.config["model"],
            "dataset_fingerprint": self.model.dataset_fingerprint,
        }


def _resume_file(saved_model_file: str) -> str:
    return str(Path(saved_model_file).with_suffix(".resume.pth"))
