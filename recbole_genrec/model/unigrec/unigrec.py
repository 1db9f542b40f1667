"""UniGRec: "Unified Generative Recommendation with Soft Identifiers for End-to-End Optimization" (arXiv 2601.17438)."""

# Shapes: B batch, T history length in items, S encoder tokens, U distinct items, L tokenizer
# levels, K codebook size, D hidden size

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.model.losses import contrastive, first_rows, symmetric_kl
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.model.unigrec.soft_identifiers import SoftIdentifiers
from recbole_genrec.model.unigrec.soft_rqvae import SoftCodes, SoftRQVAE, codeword_uniformity
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.seq2seq.t5 import mean_state
from recbole_genrec.teacher.sasrec import teacher_embeddings
from recbole_genrec.tokenizer.base import ItemTokenizer, mlp
from recbole_genrec.tokenizer.rqvae import RQVAE

logger = logging.getLogger(__name__)

# The rows of the paper's ablation table and what each of them has; M0 is TIGER.
ROWS = {
    "M0": (),
    "M1": ("soft",),
    "M2": ("soft", "joint"),
    "M3": ("soft", "joint", "uniformity"),
    "M4": ("soft", "joint", "uniformity", "tokenizer_distillation"),
    "M5": ("soft", "joint", "uniformity", "recommender_distillation"),
    "M6": ("soft", "joint", "uniformity", "tokenizer_distillation", "recommender_distillation"),
}
ADAPTERS = ("history_adapter", "teacher_adapter", "decoder_adapter")
DRAWN_DEVIATION = 0.02  # released code: of the adapters' weights


class Adapter(nn.Module):
    """Maps states of one space into another; what is trained standardizes them first, so that every source has the same scale."""

    def __init__(self, sizes: list[int], is_trained: bool) -> None:
        super().__init__()
        self.layers = mlp(sizes)
        self.is_trained = is_trained
        if not is_trained:
            for layer in self.layers[::2]:
                nn.init.normal_(layer.weight, std=DRAWN_DEVIATION)

    def forward(self, states: Tensor) -> Tensor:
        """[..., sizes[0]] -> [..., sizes[-1]]."""
        return self.layers(F.layer_norm(states, states.shape[-1:]) if self.is_trained else states)


class UniGRec(SoftIdentifiers):
    """Histories enter the recommender as soft identifiers, so its loss also trains the tokenizer."""

    def __init__(self, config, dataset, saved: dict[str, Tensor] | None = None) -> None:
        super().__init__(config, dataset, saved)
        if self.needs_teacher():
            self.register_buffer(
                "teacher",
                teacher_embeddings(config, dataset, "SASRec")
                if saved is None
                else saved["teacher"],
            )
        self._make_adapters()
        self.distills = False
        if self.needs_teacher() and config["distillation_warmup_epochs"] >= config["epochs"]:
            text = "distillation_warmup_epochs is %d of %d epochs: this run distills nothing, as the row M3"
            logger.warning(text, config["distillation_warmup_epochs"], config["epochs"])

    def _make_adapters(self) -> None:
        """Those between the spaces that the losses compare."""
        hidden_size, code_dim, is_trained = (
            self.config["hidden_size"],
            self.config["code_dim"],
            self.config["adapters"] == "trained",
        )
        if "tokenizer_distillation" in self.parts:
            self.history_adapter = Adapter(
                [hidden_size, max(code_dim, hidden_size // 2), code_dim], is_trained
            )
            if self.config["tokenizer_distillation_target"] == "teacher":
                width = self.teacher.shape[1]
                middle = [max(code_dim, width // 2), max(code_dim, width // 4)]
                self.teacher_adapter = Adapter([width, *middle, code_dim], is_trained)
        if "recommender_distillation" in self.parts:
            self.decoder_adapter = Adapter([hidden_size, self.teacher.shape[1]], is_trained)

    @property
    def parts(self) -> tuple[str, ...]:
        """What the row of the ablation table has."""
        return ROWS[self.config["ablation"]]

    @property
    def is_soft(self) -> bool:
        """Whether histories are soft identifiers."""
        return "soft" in self.parts

    def needs_teacher(self) -> bool:
        """Whether a loss compares with the teacher's vectors."""
        is_anchored = self.config["tokenizer_distillation_target"] == "item"
        return "recommender_distillation" in self.parts or (
            "tokenizer_distillation" in self.parts and not is_anchored
        )

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Soft RQ-VAE with annealed temperature and codeword uniformity; TIGER's for M0."""
        config = self.config
        if not self.is_soft:
            return RQVAE.from_config(config, n_features)
        return SoftRQVAE(
            n_features=n_features,
            hidden_sizes=config["tokenizer_hidden_sizes"],
            code_dim=config["code_dim"],
            n_levels=config["n_levels"],
            codebook_size=config["codebook_size"],
            uniformity_weight=config["tokenizer_uniformity_weight"]
            if "uniformity" in self.parts
            else 0.0,
            temperature_max=config["temperature_max"],
            temperature_min=config["temperature_min"],
            temperature_unit=config["temperature_unit"],
            annealing_epochs=max(1, config["tokenizer_epochs"]),
            kmeans_iterations=config["kmeans_iterations"],
        )

    # --- losses
    # -------------------------------------------------------------------------------------------

    def losses(self, interaction) -> dict[str, Tensor]:
        """Recommendation alone: the fine-tune stage, with the tokenizer frozen."""
        item_ids = interaction[self.ITEM_ID]
        hidden = self.decode_targets(item_ids, *self.encode_history(interaction))
        return {
            "generation": self.config["generation_weight"] * self.generation_loss(hidden, item_ids)
        }

    def joint_losses(self, interaction) -> dict[str, Tensor]:
        """Recommendation, reconstruction and what the row has of distillation, for tokenizer and recommender together."""
        config = self.config
        history, targets = self._history(interaction), interaction[self.ITEM_ID]
        items, places = torch.cat((history, targets.unsqueeze(1)), dim=1).unique(
            return_inverse=True
        )
        soft_codes = self.tokenizer.soft_codes(self.item_features[items])
        mask = (history > 0).repeat_interleave(config["n_levels"], dim=1)
        embeddings = self.gather(soft_codes, places[:, :-1])
        if config["history_pooling"] == "padded":
            embeddings = embeddings.where(mask.unsqueeze(-1), self.token_table.weight[0])
        memory = self.seq2seq.encode(embeddings, mask)
        hidden = self.decode_targets(targets, memory, mask)
        losses = {
            "generation": config["generation_weight"] * self.generation_loss(hidden, targets),
            "reconstruction": config["reconstruction_weight"]
            * self._reconstruction(soft_codes, items, places),
        }
        if "uniformity" in self.parts and config["uniformity_weight"]:
            losses["uniformity"] = config["uniformity_weight"] * codeword_uniformity(
                soft_codes.probabilities[items > 0]
            )
        return (
            {**losses, **self._distillation(memory, mask, hidden[:, 0], targets)}
            if self.distills
            else losses
        )

    def _distillation(
        self, memory: Tensor, mask: Tensor, first_states: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Both sides, weighted, from encoder states [B, S, D] with their mask [B, S] and the decoder's first states [B, D]."""
        config, losses = self.config, {}
        rows = first_rows(targets) if config["repeated_targets"] == "dropped" else slice(None)
        if "tokenizer_distillation" in self.parts:
            pool = padded_state if config["history_pooling"] == "padded" else mean_state
            loss = self._distill_tokenizer(pool(memory, mask)[rows], targets[rows])
            losses["tokenizer_distillation"] = config["tokenizer_distillation_weight"] * loss
        if "recommender_distillation" in self.parts:
            loss = self._distill_recommender(first_states[rows], targets[rows])
            losses["recommender_distillation"] = config["recommender_distillation_weight"] * loss
        return losses

    def _history(self, interaction) -> Tensor:
        """Histories [B, T], as long as the batch's longest; as long as any may be where padding counts, as in the released code."""
        history = interaction[self.ITEM_SEQ]
        counts_padding = (
            self.config["history_pooling"] == "padded"
            or self.config["reconstruction_rows"] == "slots"
        )
        return (
            F.pad(history, (0, self.config["MAX_ITEM_LIST_LENGTH"] - history.shape[1]))
            if counts_padding
            else history
        )

    def _reconstruction(self, soft_codes: SoftCodes, items: Tensor, places: Tensor) -> Tensor:
        """Mean squared error of a batch's distinct items [U]; as released, half that of all slots, padding too, plus half that of targets.

        `places` [B, T + 1] are rows of `items`: those of the histories, then the targets'.
        """
        with full_precision(soft_codes.quantized):
            errors = (
                (self.tokenizer.decoder(soft_codes.quantized) - self.item_features[items])
                .square()
                .mean(dim=1)
            )
        if self.config["reconstruction_rows"] == "slots":
            return 0.5 * (errors[places[:, :-1]].mean() + errors[places[:, -1]].mean())
        real = (items > 0).to(errors.dtype)
        return (errors * real).sum() / real.sum()

    def _distill_tokenizer(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """Histories, as pooled states [B, D], should get the soft codes of the teacher's target items, or those of the items themselves."""
        config = self.config
        with full_precision(pooled):
            if config["tokenizer_distillation_target"] == "item":
                target = self.tokenizer.encoder(self.item_features[targets])
            else:
                target = self.teacher_adapter(self.teacher[targets])
            how = (
                config["distillation_temperature"],
                config["distillation_sign"],
                config["distillation_residual"],
            )
            latents = (self.history_adapter(pooled.to(target.dtype)), target)
            return symmetric_kl(*(self.tokenizer.distributions(latent, *how) for latent in latents))

    def _distill_recommender(self, first_states: Tensor, targets: Tensor) -> Tensor:
        """The decoder's first states [B, D] should point to the teacher's target items."""
        students = self.decoder_adapter(first_states)
        return contrastive(
            students, self.teacher[targets], targets, self.config["contrastive_temperature"]
        )

    # --- stages
    # -------------------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """Soft tokenizer with annealing, joint training, fine-tuning on fixed semantic ids.

        Without joint training the recommender alone learns in its place, for as many epochs.
        """
        second = self._joint_stage() if "joint" in self.parts else self.recommender_stage()
        return (
            self.tokenizer_stage(before_epoch=self._anneal if self.is_soft else None),
            second,
            self.finetune_stage(),
        )

    def _anneal(self, epoch: int) -> None:
        self.tokenizer.anneal(epoch, self.item_features[1:])

    def _joint_stage(self) -> Stage:
        config = self.config
        weight_decay, learning_rate = config["weight_decay"], config["learning_rate"]
        adapters = tuple(name for name in ADAPTERS if hasattr(self, name))
        trained = (
            (Group(adapters, learning_rate, 0.0),)
            if adapters and config["adapters"] == "trained"
            else ()
        )
        return replace(
            self.recommender_stage(),
            name="joint",
            groups=(
                Group(("tokenizer",), config["joint_tokenizer_learning_rate"], weight_decay),
                Group(("token_table", "seq2seq"), learning_rate, weight_decay),
                *trained,
            ),
            losses=self.joint_losses,
            before_epoch=self._switch_distillation,
            after_epoch=lambda epoch: self.refresh_semantic_ids(),
        )

    def _switch_distillation(self, epoch: int) -> None:
        """Distillation waits until the recommender has learned something."""
        self.distills = epoch >= self.config["distillation_warmup_epochs"]


def padded_state(states: Tensor, mask: Tensor) -> Tensor:
    """The released code's pooling of encoder states [B, S, D] with their mask [B, S] to [B, D], where mean_state is meant.

    It negates an integer mask, so that rows -2 and -1 of the batch become zero in place of padding
    (the last one only if there is
    padding); all positions are summed, and the sum is divided by the number of real ones.
    """
    rows = (~mask.long()).unique() % len(states)
    return states.index_fill(0, rows, 0.0).sum(1) / mask.sum(1, keepdim=True)
