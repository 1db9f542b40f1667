"""Runs the stages of a generative model: one loop for epochs, early stopping, checkpoints, log and resume."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import dict2str, early_stopping
from tqdm import tqdm

from recbole_genrec.compat import without_anomaly_detection
from recbole_genrec.data.batches import ItemBatches, LengthBatches, to_device
from recbole_genrec.data.sequence_batches import SequenceBatches
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.model.stage import Stage
from recbole_genrec.runtime import distributed
from recbole_genrec.runtime.precision import mixed_precision
from recbole_genrec.trainer.checkpoint import load_checkpoint, new_checkpoint_path, save_checkpoint
from recbole_genrec.trainer.collector import TopKCollector
from recbole_genrec.trainer.optimizer import StageOptimizer, training_only
from recbole_genrec.trainer.progress import Progress, check_same_settings

logger = logging.getLogger(__name__)


class GenRecTrainer(Trainer):
    """Trains a GenerativeRecommender stage by stage; evaluates ranked lists with RecBole's evaluator.

    `saved_model_file` holds the best weights, `resume_file` what a killed run goes on from.
    """

    def __init__(self, config, model) -> None:
        with distributed.one_tensorboard():
            super().__init__(config, model)
        distributed.start_alike(model)
        self.eval_collector = TopKCollector(config)
        self.saved_model_file = distributed.from_main(str(new_checkpoint_path(config)))
        self.resume_file = _resume_file(self.saved_model_file)
        self.progress = Progress()
        self.proven_share: float | None = None  # of the ranked lists of the last evaluation
        self.optimizer_states: list[dict[str, Any]] = []
        self._ranked: deque[torch.Tensor] = (
            deque()
        )  # lists of the next batches, where several processes have made them
        self._clock = time.time()

    def _build_optimizer(self, **kwargs) -> None:
        """Every stage builds its own."""

    # --- the story
    # ----------------------------------------------------------------------------------------

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn=None,
    ):
        """Run all stages that are not done; arguments and result as RecBole's Trainer.fit.

        Raises:
            ValueError: if a loss becomes NaN or infinite.
        """
        self.eval_collector.data_collect(train_data)
        stages = self.model.stages()
        for stage in stages[self.progress.stage :]:
            self._clock = time.time()
            self._run(stage, train_data, valid_data, show_progress, callback_fn)
            self._finish(stage)
        return self.progress.best_score, self.progress.best_result

    def _run(self, stage: Stage, train_data, valid_data, show_progress: bool, callback_fn) -> None:
        """The epochs of one stage that are not done."""
        progress = self.progress
        if progress.epoch == 0:
            self._start(stage)
        batches = self._batches(stage, train_data)
        optimizers = [
            StageOptimizer(self.model, phase, self.learner, self._max_norm(), len(batches))
            for phase in stage.phases or (stage,)
        ]
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
        """What comes before the first epoch."""
        if stage.start is not None:
            stage.start()
            distributed.copy_state(self.model)
        if stage.epochs and not stage.keeps_best:
            self.progress.best_score = self.progress.best_result = None

    def _finish(self, stage: Stage) -> None:
        """Go back to the best weights if there are any, and hand over to the next stage."""
        progress = self.progress
        validated = stage.stopping_step is not None and progress.best_score is not None
        if validated:
            self._load_weights(self.saved_model_file)
        if stage.finish is not None:
            stage.finish()
            distributed.copy_state(self.model)
        if not validated:
            self._save_weights()
        self._count_seconds(stage)
        logger.info(
            "stage %s: done after %d epochs, %.1f s",
            stage.name,
            progress.epoch,
            progress.seconds[stage.name],
        )
        progress.stage, progress.epoch, progress.bad_validations, progress.stopped = (
            progress.stage + 1,
            0,
            0,
            False,
        )
        self._save_progress([])

    def _count_seconds(self, stage: Stage) -> None:
        """Add the time since the last call to the stage's."""
        now = time.time()
        self.progress.seconds[stage.name] = (
            self.progress.seconds.get(stage.name, 0.0) + now - self._clock
        )
        self._clock = now

    # --- one epoch
    # ----------------------------------------------------------------------------------------

    def _epochs(self, stage: Stage, show_progress: bool) -> Iterable[int]:
        """Epochs left; an epoch over items is short, so there the bar counts epochs."""
        if self.progress.stopped:
            return ()
        epochs = range(self.progress.epoch, stage.epochs)
        return (
            tqdm(epochs, desc=stage.name, ncols=100)
            if show_progress and stage.rows == "items"
            else epochs
        )

    def _batches(self, stage: Stage, train_data) -> ItemBatches | LengthBatches | SequenceBatches:
        seed = self.config["seed"] + self.progress.stage
        if stage.rows == "items":
            return ItemBatches(self.model.n_items, stage.batch_size, seed, self.device)
        model = self.model
        fields = (model.USER_ID, model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.ITEM_ID)
        batches = SequenceBatches if stage.rows == "sequences" else LengthBatches
        return batches(train_data.dataset.inter_feat, stage.batch_size, seed, fields)

    def _train(
        self,
        stage: Stage,
        epoch: int,
        batches,
        optimizers: list[StageOptimizer],
        show_progress: bool,
    ) -> dict[str, float]:
        """One pass over the batches; returns the mean of every loss term."""
        if stage.before_epoch is not None:
            stage.before_epoch(epoch)
        number, n_earlier = stage.turn(epoch)
        phase, optimizer = stage.phases[number] if stage.phases else stage, optimizers[number]
        totals: dict[str, torch.Tensor] = {}
        bar = show_progress and stage.rows != "items"
        rows = tqdm(
            batches.epoch(epoch),
            total=len(batches),
            desc=f"{stage.name} {epoch}",
            ncols=100,
            disable=not bar,
        )
        with (
            training_only(self.model, phase.groups),
            distributed.split_rows(self.model.seq2seq, batches.seed, epoch),
        ):
            for step, batch in enumerate(rows, start=n_earlier * len(batches)):
                with mixed_precision(self.device, self.enable_amp):
                    losses = phase.losses(to_device(batch, self.device))
                optimizer.step(sum(losses.values()), step)
                for name, loss in losses.items():
                    totals[name] = totals.get(name, 0.0) + loss.detach()
        means = {name: float(total) / len(batches) for name, total in totals.items()}
        if not all(math.isfinite(mean) for mean in means.values()):
            raise UserError(
                f"stage {stage.name}, epoch {epoch}: a loss is not finite ({means}); lower its learning rate."
            )
        if stage.after_epoch is not None:
            stage.after_epoch(epoch)
        return means

    def _validate(
        self, stage: Stage, epoch: int, valid_data, show_progress: bool, callback_fn
    ) -> None:
        """Measure on the validation part, keep the best weights, and say when to stop."""
        progress = self.progress
        score, result, bigger = self._score(stage, valid_data, show_progress)
        logger.info("stage %s epoch %d: valid %s", stage.name, epoch, dict2str(result))
        no_score = -math.inf if bigger else math.inf
        best = no_score if progress.best_score is None else progress.best_score
        best, progress.bad_validations, progress.stopped, improved = early_stopping(
            score, best, progress.bad_validations, max_step=stage.stopping_step, bigger=bigger
        )
        if improved:
            progress.best_score, progress.best_result = (
                float(best),
                {name: float(value) for name, value in result.items()},
            )
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
            return *self._valid_epoch(
                valid_data, show_progress=show_progress
            ), self.valid_metric_bigger
        self.model.eval()
        score = distributed.from_main(stage.validate(valid_data))
        return score, {stage.name: score}, True

    def _validates(self, stage: Stage, epoch: int, valid_data) -> bool:
        """After every `eval_step` epochs (cycles of epochs, if there are phases) and the last one; never if `eval_step` is 0."""
        due = self.eval_step > 0 and (
            (epoch + 1) % (self.eval_step * stage.cycle_epochs()) == 0 or epoch + 1 == stage.epochs
        )
        return stage.stopping_step is not None and bool(valid_data) and due

    def _report(self, stage: Stage, epoch: int, losses: dict[str, float], seconds: float) -> None:
        terms = ", ".join(f"{name} {loss:.5g}" for name, loss in losses.items())
        place = (
            f"{stage.name}/{stage.phases[stage.turn(epoch)[0]].name}"
            if stage.phases
            else stage.name
        )
        logger.info("stage %s epoch %d: %.1f s, losses: %s", place, epoch, seconds, terms)
        for name, loss in losses.items():
            self.tensorboard.add_scalar(f"{place}/{name}", loss, epoch)

    def _max_norm(self) -> float | None:
        return None if self.clip_grad_norm is None else self.clip_grad_norm["max_norm"]

    # --- evaluation
    # ---------------------------------------------------------------------------------------

    def _full_sort_batch_eval(self, batched_data):
        """Ranked item ids in place of RecBole's dense scores."""
        interaction, _, positive_users, positive_items = batched_data
        ranked = self._ranked.popleft() if self._ranked else self._rank(interaction)
        return interaction, ranked, positive_users, positive_items

    def _rank(self, interaction) -> torch.Tensor:
        """Item ids, int64 [B, K], best first, 0 where there is none; counts what is empty and what is proven."""
        history, lengths = self.model.ITEM_SEQ, interaction[self.model.ITEM_SEQ_LEN]
        interaction.interaction[history] = interaction[history][:, : int(lengths.max())]
        longest = max(self.config["topk"])
        beams = self.model.search(to_device(interaction, self.device), longest)
        ranked = beams.item_ids[:, :longest]
        self.n_empty += (ranked == 0).sum()
        self.n_proven += beams.proven(longest).sum()
        self.n_ranked += len(ranked)
        return ranked

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """As RecBole's Trainer.evaluate; the checkpoint must belong to this model and data set."""
        if eval_data and load_best_model:
            self._load_weights(model_file or self.saved_model_file)
        self.n_empty, self.n_proven = torch.zeros(2, dtype=torch.long, device=self.device)
        self.n_ranked = 0
        self.model.eval()
        self._ranked = distributed.in_shares(
            eval_data or (), self._rank, max(self.config["topk"]), self.device
        )
        result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        self.n_empty, self.n_proven, self.n_ranked = distributed.summed(
            self.n_empty, self.n_proven, self.n_ranked
        )
        if self.n_empty:
            logger.info(
                "%d places of the ranked lists hold codes of no item; they count as misses",
                self.n_empty,
            )
        if self.n_ranked:
            self.proven_share = float(self.n_proven) / self.n_ranked
            logger.info(
                "ranked lists proven exact: %.2f%% of %d", 100 * self.proven_share, self.n_ranked
            )
        return result

    # --- checkpoints
    # --------------------------------------------------------------------------------------

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
        distributed.copy_state(self.model)

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
        """Go on where a run was when it wrote `resume_file`; on a CPU the result is that of an undisturbed run.

        Raises:
            FileNotFoundError, ValueError: if the file or that of the best weights is missing, or of
                another model or data set.
        """
        content = load_checkpoint(resume_file, "cpu", **self._identity())
        check_same_settings(
            self.config.with_defaults(content["settings"]), self.config.settings(), resume_file
        )
        self.model.load_state_dict(content["state_dict"])
        self.progress = Progress(**content["progress"])
        self.optimizer_states = content["optimizer"]
        self._go_on_in(str(resume_file))
        torch.set_rng_state(content["random_state"])
        if content.get("cuda_random_state") is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_random_state"], self.device)
        n_processes = content.get("n_processes", 1)
        if n_processes != distributed.size():
            logger.warning(
                "%s is of %d processes, and %d go on: dropout draws other numbers",
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

    def _go_on_in(self, resume_file: str) -> None:
        """Write where the run's files are now; they may have been moved together."""
        weights = resume_file.removesuffix(".resume.pth") + ".pth"
        if self.progress.best_score is not None and not Path(weights).is_file():
            raise MissingFileError(
                f"{resume_file!r} needs the best weights so far, but there is no {weights!r}: move both files together"
            )
        self.saved_model_file, self.resume_file = weights, _resume_file(weights)

    def _identity(self) -> dict[str, str]:
        return {
            "model": self.config["model"],
            "dataset_fingerprint": self.model.dataset_fingerprint,
        }


def _resume_file(saved_model_file: str) -> str:
    return str(Path(saved_model_file).with_suffix(".resume.pth"))
