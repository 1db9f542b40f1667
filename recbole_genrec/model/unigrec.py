"""UniGRec: "Unified Generative Recommendation with Soft Identifiers for End-to-End Optimization" (arXiv 2601.17438)."""

# Shapes: B batch, T history length in items, U distinct items, L tokenizer levels, K codebook size, D hidden size

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.data.collaborative import teacher_embeddings
from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.seq2seq.losses import contrastive, symmetric_kl
from recbole_genrec.seq2seq.t5 import mean_state
from recbole_genrec.tokenizer.base import mlp
from recbole_genrec.tokenizer.soft_rqvae import SoftCodes, SoftRQVAE, codeword_uniformity


class Adapter(nn.Module):
    """Maps standardized states of one space into another; the standardization gives every source the same scale."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = mlp(sizes)

    def forward(self, states: Tensor) -> Tensor:
        """[..., sizes[0]] -> [..., sizes[-1]]."""
        return self.layers(F.layer_norm(states, states.shape[-1:]))


class UniGRec(GenerativeRecommender):
    """Histories enter the recommender as soft identifiers, so its loss also trains the tokenizer."""

    def __init__(self, config, dataset, saved: dict[str, Tensor] | None = None) -> None:
        super().__init__(config, dataset, saved)
        teacher = teacher_embeddings(config, dataset, "SASRec") if saved is None else saved["teacher"]
        self.register_buffer("teacher", teacher)
        hidden_size, teacher_size, code_dim = config["hidden_size"], teacher.shape[1], config["code_dim"]
        middle = [max(code_dim, teacher_size // 2), max(code_dim, teacher_size // 4)]
        self.history_adapter = Adapter([hidden_size, max(code_dim, hidden_size // 2), code_dim])
        self.teacher_adapter = Adapter([teacher_size, *middle, code_dim])
        self.decoder_adapter = Adapter([hidden_size, teacher_size])
        self.distills = False
        self.item_embeddings: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.forget_item_embeddings())

    def make_tokenizer(self, n_features: int) -> SoftRQVAE:
        """Soft RQ-VAE with annealed temperature and codeword uniformity."""
        config = self.config
        return SoftRQVAE(
            n_features=n_features,
            hidden_sizes=config["tokenizer_hidden_sizes"],
            code_dim=config["code_dim"],
            n_levels=config["n_levels"],
            codebook_size=config["codebook_size"],
            uniformity_weight=config["tokenizer_uniformity_weight"],
            temperature_max=config["temperature_max"],
            temperature_min=config["temperature_min"],
            annealing_epochs=max(1, config["tokenizer_epochs"]),
            kmeans_iterations=config["kmeans_iterations"],
        )

    # --- soft identifiers ---------------------------------------------------------------------------------

    def soft_embeddings(self, probabilities: Tensor) -> Tensor:
        """Expected token embeddings of soft codes, float [U, L, K] -> [U, L, D]; a one-hot code is a plain lookup."""
        levels = [self.token_table.weight[self.semantic_ids.level_tokens(level)] for level in range(probabilities.shape[1])]
        return torch.stack([probabilities[:, level] @ table for level, table in enumerate(levels)], dim=1)

    def forget_item_embeddings(self) -> None:
        """Called whenever the weights may have changed."""
        self.item_embeddings = None

    def train(self, mode: bool = True) -> UniGRec:
        """Set the mode, as of any module."""
        self.forget_item_embeddings()
        return super().train(mode)

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Soft identifiers of every item without the counter, oldest item first; the tokenizer sees an item once."""
        if not self.training:
            if self.item_embeddings is None or torch.is_grad_enabled():
                self.item_embeddings = self.soft_embeddings(self.tokenizer.soft_codes(self.item_features).probabilities)
            return self.item_embeddings[item_id_list].flatten(1, 2)
        items, places = item_id_list.unique(return_inverse=True)
        return self._gather(self.tokenizer.soft_codes(self.item_features[items]), places)

    def _gather(self, soft_codes: SoftCodes, places: Tensor) -> Tensor:
        """Encoder input [B, T * L, D] of histories given as places [B, T] in the rows of soft codes."""
        embeddings = self.soft_embeddings(soft_codes.probabilities)
        return F.embedding(places, embeddings.flatten(1)).unflatten(-1, embeddings.shape[1:]).flatten(1, 2)

    # --- losses -------------------------------------------------------------------------------------------

    def losses(self, interaction) -> dict[str, Tensor]:
        """Recommendation alone: the fine-tune stage, with the tokenizer frozen."""
        item_ids = interaction[self.ITEM_ID]
        hidden = self.decode_targets(item_ids, *self.encode_history(interaction))
        return {"generation": self.config["generation_weight"] * -self.target_log_probs(hidden, item_ids).mean()}

    def joint_losses(self, interaction) -> dict[str, Tensor]:
        """Recommendation, reconstruction and both distillations, for tokenizer and recommender together."""
        config = self.config
        history, targets = interaction[self.ITEM_SEQ], interaction[self.ITEM_ID]
        items, places = torch.cat((history, targets.unsqueeze(1)), dim=1).unique(return_inverse=True)
        soft_codes = self.tokenizer.soft_codes(self.item_features[items])
        embeddings = self._gather(soft_codes, places[:, :-1])
        mask = (history > 0).repeat_interleave(config["n_levels"], dim=1)
        memory = self.seq2seq.encode(embeddings, mask)
        hidden = self.decode_targets(targets, memory, mask)
        real = (items > 0).float().unsqueeze(1)
        error = (self.tokenizer.decoder(soft_codes.quantized) - self.item_features[items]).square() * real
        losses = {
            "generation": config["generation_weight"] * -self.target_log_probs(hidden, targets).mean(),
            "reconstruction": config["reconstruction_weight"] * error.sum() / (real.sum() * error.shape[1]),
        }
        if config["uniformity_weight"]:
            losses["uniformity"] = config["uniformity_weight"] * codeword_uniformity(soft_codes.probabilities[items > 0])
        if self.distills:
            losses["tokenizer_distillation"] = config["tokenizer_distillation_weight"] * self._distill_tokenizer(memory, mask, targets)
            losses["recommender_distillation"] = config["recommender_distillation_weight"] * self._distill_recommender(hidden, targets)
        return losses

    def _distill_tokenizer(self, memory: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """History and teacher's target item should get the same soft codes."""
        temperature = self.config["distillation_temperature"]
        student = self.tokenizer.quantize(self.history_adapter(mean_state(memory, mask)), temperature)
        teacher = self.tokenizer.quantize(self.teacher_adapter(self.teacher[targets]), temperature)
        return symmetric_kl(student.probabilities, teacher.probabilities)

    def _distill_recommender(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The decoder's first state should point to the teacher's target item."""
        students = self.decoder_adapter(hidden[:, 0])
        return contrastive(students, self.teacher[targets], targets, self.config["contrastive_temperature"])

    # --- stages -------------------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """Soft tokenizer with annealing, joint training, fine-tuning on fixed semantic ids."""
        return (self.tokenizer_stage(before_epoch=self.tokenizer.anneal), self._joint_stage(), self.finetune_stage())

    def _joint_stage(self) -> Stage:
        config = self.config
        weight_decay, learning_rate = config["weight_decay"], config["learning_rate"]
        return Stage(
            name="joint",
            rows="interactions",
            groups=(
                Group(("tokenizer",), config["joint_tokenizer_learning_rate"], weight_decay),
                Group(("token_table", "seq2seq"), learning_rate, weight_decay),
                Group(("history_adapter", "teacher_adapter", "decoder_adapter"), learning_rate, 0.0),
            ),
            losses=self.joint_losses,
            epochs=config["epochs"],
            batch_size=config["train_batch_size"],
            scheduler=config["scheduler"],
            warmup_epochs=config["warmup_epochs"],
            stopping_step=config["stopping_step"],
            before_epoch=self._switch_distillation,
            after_epoch=lambda epoch: self.refresh_semantic_ids(),
        )

    def _switch_distillation(self, epoch: int) -> None:
        """Distillation waits until the recommender has learned something."""
        self.distills = epoch >= self.config["distillation_warmup_epochs"]
