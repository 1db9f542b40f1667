"""UniGRec: unified generative recommendation with soft identifiers (arXiv 2601.17438).

Shapes: B batch, S encoder tokens, U distinct items, C code width, D hidden size.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, ClassVar

from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.config.declare import Declarations, number, one_of
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import UserError
from recbole_genrec.features.item_features import TeacherTable, no_teacher
from recbole_genrec.model.abstract import FINETUNE
from recbole_genrec.model.losses import contrastive, symmetric_kl
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.model.unigrec.soft_identifiers import SoftBatch, SoftIdentifiers
from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE, codeword_uniformity
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.seq2seq.t5 import mean_state
from recbole_genrec.tokenizer.base import ItemTokenizer, mlp
from recbole_genrec.tokenizer.rqvae import RQVAE

logger = logging.getLogger(__name__)

# The rows of the paper's ablation table and the parts of each; M0 is TIGER.
ROWS = {
    "M0": (),
    "M1": ("soft",),
    "M2": ("soft", "joint"),
    "M3": ("soft", "joint", "uniformity"),
    "M4": ("soft", "joint", "uniformity", "tokenizer_distillation"),
    "M5": ("soft", "joint", "uniformity", "recommender_distillation"),
    "M6": ("soft", "joint", "uniformity", "tokenizer_distillation", "recommender_distillation"),
}
# Setting that a row adds to the row before; at 0 the run would equal the row before.
ADDED_BY_ROW = {
    "M2": "joint_tokenizer_learning_rate",
    "M3": "tokenizer_uniformity_weight",
    "M4": "tokenizer_distillation_weight",
    "M5": "recommender_distillation_weight",
}
ADAPTERS = ("history_adapter", "teacher_adapter", "decoder_adapter")


class Adapter(nn.Module):
    """A map between two spaces; it standardizes its input, so that every source has one scale."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = mlp(sizes)

    def forward(self, states: Tensor) -> Tensor:
        """Map float [..., sizes[0]] -> [..., sizes[-1]]."""
        return self.layers(F.layer_norm(states, states.shape[-1:]))


class UniGRec(SoftIdentifiers):
    """A recommender that reads soft identifiers, so that its loss also trains the tokenizer."""

    tokenizer_class = SoftRQVAE
    adapter_class: type[Adapter] = Adapter
    pool = staticmethod(mean_state)
    teacher: Tensor

    settings: ClassVar[Declarations] = {
        **RQVAE.settings,
        **FINETUNE,
        "ablation": one_of(*ROWS),
        "temperature_max": number(above=0),
        "temperature_min": number(above=0),
        "temperature_unit": one_of("variance", "absolute"),
        "tokenizer_uniformity_weight": number(min=0),
        "joint_tokenizer_learning_rate": number(min=0),
        "generation_weight": number(min=0),
        "reconstruction_weight": number(min=0),
        "uniformity_weight": number(min=0),
        "tokenizer_distillation_weight": number(min=0),
        "recommender_distillation_weight": number(min=0),
        "tokenizer_distillation_target": one_of("teacher", "item"),
        "distillation_temperature": number(above=0),
        "contrastive_temperature": number(above=0),
        "distillation_warmup_epochs": number(min=0),
    }

    @classmethod
    def check_settings(cls, settings: dict[str, Any]) -> None:
        """Also refuse a row of the ablation table without what it adds, or a rising temperature."""
        super().check_settings(settings)
        row, n_epochs = settings["ablation"], settings["epochs"]
        key, warmup = ADDED_BY_ROW.get(row), settings["distillation_warmup_epochs"]
        if key is not None and not settings[key]:
            raise UserError(
                f"ablation is {row}, but what it adds is switched off by {key}, which is 0: raise "
                "it or choose another row"
            )
        if row in ("M4", "M5") and warmup >= n_epochs:
            raise UserError(
                f"ablation is {row}, but distillation_warmup_epochs is {warmup} of {n_epochs} "
                "epochs, so nothing would be distilled: lower it, raise epochs or choose M3"
            )
        highest, lowest = settings["temperature_max"], settings["temperature_min"]
        if highest < lowest:
            raise UserError(
                f"temperature_max is {highest!r} and temperature_min {lowest!r}, but the "
                "temperature falls from one to the other: swap them"
            )

    def __init__(
        self,
        config: GenRecConfig,
        dataset: GenRecDataset,
        saved: dict[str, Tensor] | None = None,
        teacher_table: TeacherTable = no_teacher,
    ) -> None:
        super().__init__(config, dataset, saved, teacher_table)
        if self.needs_teacher():
            self.register_buffer(
                "teacher",
                teacher_table("SASRec") if saved is None else saved["teacher"],
            )
        self._make_adapters()
        self.distills = False
        if self.needs_teacher() and config["distillation_warmup_epochs"] >= config["epochs"]:
            logger.warning(
                "distillation_warmup_epochs is %d of %d epochs: this run distills nothing, like M3",
                config["distillation_warmup_epochs"],
                config["epochs"],
            )

    def _make_adapters(self) -> None:
        """Build the maps between the spaces that the distillation losses compare."""
        hidden_size, code_dim = self.config["hidden_size"], self.config["code_dim"]
        if "tokenizer_distillation" in self.parts:
            self.history_adapter = self.adapter_class(
                [hidden_size, max(code_dim, hidden_size // 2), code_dim]
            )
            if self.config["tokenizer_distillation_target"] == "teacher":
                width = self.teacher.shape[1]
                middle = [max(code_dim, width // 2), max(code_dim, width // 4)]
                self.teacher_adapter = self.adapter_class([width, *middle, code_dim])
        if "recommender_distillation" in self.parts:
            self.decoder_adapter = self.adapter_class([hidden_size, self.teacher.shape[1]])

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of the chosen row of the ablation table."""
        return ROWS[self.config["ablation"]]

    @property
    def is_soft(self) -> bool:
        """Return True if histories are soft identifiers."""
        return "soft" in self.parts

    def needs_teacher(self) -> bool:
        """Return whether a loss compares with the teacher's vectors."""
        is_anchored = self.config["tokenizer_distillation_target"] == "item"
        return "recommender_distillation" in self.parts or (
            "tokenizer_distillation" in self.parts and not is_anchored
        )

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Return a soft RQ-VAE with annealed temperature; TIGER's RQ-VAE for M0."""
        if not self.is_soft:
            return RQVAE.from_config(self.config, n_features)
        weight = self.config["tokenizer_uniformity_weight"] if "uniformity" in self.parts else 0.0
        return self.tokenizer_class.from_config(self.config, n_features, weight)

    # --- losses

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return L_Rec alone, for the fine-tune stage with its frozen tokenizer."""
        item_ids = interaction[self.ITEM_ID]
        hidden = self.decode_targets(item_ids, *self.encode_history(interaction))
        return {
            "generation": self.config["generation_weight"] * self.generation_loss(hidden, item_ids)
        }

    def joint_losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return L_Rec, L_Recon and, as far as the row has them, L_CU and both distillations."""
        config, targets = self.config, interaction[self.ITEM_ID]
        batch = self.soft_batch(interaction[self.ITEM_SEQ], targets)
        embeddings, mask = self.embed_soft_batch(batch)
        memory = self.seq2seq.encode(embeddings, mask)
        hidden = self.decode_targets(targets, memory, mask)
        losses = {
            "generation": config["generation_weight"] * self.generation_loss(hidden, targets),
            "reconstruction": config["reconstruction_weight"] * self.reconstruction(batch),
        }
        if "uniformity" in self.parts and config["uniformity_weight"]:
            real = batch.codes.probabilities[batch.items > 0]
            losses["uniformity"] = config["uniformity_weight"] * codeword_uniformity(real)
        if self.distills:
            losses |= self.distillation(self.pool(memory, mask), hidden[:, 0], targets)
        return losses

    def reconstruction(self, batch: SoftBatch) -> Tensor:
        """Return L_Recon, the mean squared error of the distinct items without padding."""
        errors = self.squared_errors(batch)
        real = (batch.items > 0).to(errors.dtype)
        return (errors * real).sum() / real.sum()

    def squared_errors(self, batch: SoftBatch) -> Tensor:
        """Return the squared error of each distinct item, averaged over its features, float [U]."""
        with full_precision(batch.codes.quantized):
            decoded = self.tokenizer.decoder(batch.codes.quantized)
            return (decoded - self.item_features[batch.items]).square().mean(dim=1)

    def distillation(
        self, pooled: Tensor, first_states: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted terms of collaborative distillation that the row has.

        Args:
            pooled: float [B, D], the encoder's states of each history, pooled.
            first_states: float [B, D], the decoder's first states.
            targets: int64 [B], item ids.
        """
        config, losses = self.config, {}
        if "tokenizer_distillation" in self.parts:
            loss = self._distill_tokenizer(pooled, targets)
            losses["tokenizer_distillation"] = config["tokenizer_distillation_weight"] * loss
        if "recommender_distillation" in self.parts:
            loss = self._distill_recommender(first_states, targets)
            losses["recommender_distillation"] = config["recommender_distillation_weight"] * loss
        return losses

    def _distill_tokenizer(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """Return L_CD^T: histories get the soft codes of the teacher's targets, or of the items."""
        with full_precision(pooled):
            if self.config["tokenizer_distillation_target"] == "item":
                wanted = self.tokenizer.encoder(self.item_features[targets])
            else:
                wanted = self.teacher_adapter(self.teacher[targets])
            found = self.history_adapter(pooled.to(wanted.dtype))
            temperature = self.config["distillation_temperature"]
            return symmetric_kl(
                self.tokenizer.distributions(found, temperature),
                self.tokenizer.distributions(wanted, temperature),
            )

    def _distill_recommender(self, first_states: Tensor, targets: Tensor) -> Tensor:
        """Return L_CD^R: the decoder's first states point to the teacher's targets."""
        students = self.decoder_adapter(first_states)
        return contrastive(
            students, self.teacher[targets], targets, self.config["contrastive_temperature"]
        )

    # --- stages

    def stages(self) -> tuple[Stage, ...]:
        """Return the soft tokenizer with annealing, joint training, fine-tuning on fixed ids.

        Without joint training the recommender trains alone for as many epochs.
        """
        second = self.joint_stage() if "joint" in self.parts else self.recommender_stage()
        before_epoch = self._anneal if self.is_soft else None
        return self.tokenizer_stage(before_epoch), second, self.finetune_stage()

    def joint_stage(self) -> Stage:
        """Train tokenizer, recommender and adapters together; ids change after every epoch."""
        config = self.config
        weight_decay, learning_rate = config["weight_decay"], config["learning_rate"]
        groups = [
            Group(("tokenizer",), config["joint_tokenizer_learning_rate"], weight_decay),
            Group(("token_table", "seq2seq"), learning_rate, weight_decay),
        ]
        adapters = tuple(name for name in ADAPTERS if hasattr(self, name))
        if adapters:
            groups.append(Group(adapters, learning_rate, 0.0))
        return replace(
            self.recommender_stage(),
            name="joint",
            groups=tuple(groups),
            losses=self.joint_losses,
            before_epoch=self._switch_distillation,
            after_epoch=self._end_epoch,
        )

    def _anneal(self, epoch: int) -> None:
        self.tokenizer.anneal(epoch, self.item_features[1:])

    def _switch_distillation(self, epoch: int) -> None:
        """Start distillation once the recommender has had its warm-up epochs."""
        self.distills = epoch >= self.config["distillation_warmup_epochs"]

    def _end_epoch(self, epoch: int) -> None:
        self.refresh_semantic_ids()
