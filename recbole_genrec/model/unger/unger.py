"""UNGER (arXiv 2502.06269).

"Generative Recommendation with A Unified Code via Semantic and Collaborative Integration".
"""

# Shapes: B batch, T history length in items, L levels, D hidden size, Z width of an item's
# vector.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.config.declare import Declarations, number, one_of, whole
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.config.shared import SCHEDULERS
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import UserError
from recbole_genrec.features.item_features import TeacherTable, no_teacher
from recbole_genrec.features.text import text_fields
from recbole_genrec.model.abstract import CHOSEN_TOKENIZER, GenerativeRecommender
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.model.unger.distillation import Distillation
from recbole_genrec.model.unger.integration import Integration
from recbole_genrec.model.unger.transformer import INITIAL_DEVIATION, Transformer, TransformerSize
from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.tokenizer.unique_kmeans import UniqueResidualKMeans

# The rows of the paper's ablation table, and two rows that it leaves out: the source of the codes,
# and whether the generator distills their vectors.
ABLATIONS = {
    "none": ("integrated", True),  # UNGER: CKA + IKD
    "no_distillation": ("integrated", False),  # CKA
    "concat": ("concat", False),
    "collaborative": ("collaborative", False),
    "semantic": ("semantic", False),
    "concat_distilled": ("concat", True),
    "collaborative_distilled": ("collaborative", True),
}
MAX_USERS = 64  # whose histories the DIN ranks the catalogue for at a time


class UNGER(GenerativeRecommender):
    """One code per item for its text and its interactions.

    Stage I learns an integrated embedding of every item, k-means turns it into codes, and in
    stage II a generator learns the codes and, by distillation, what they have lost.
    """

    settings: ClassVar[Declarations] = {
        **CHOSEN_TOKENIZER,
        **RQVAE.settings,
        **Integration.settings,
        **Distillation.settings,
        "ablation": one_of(*ABLATIONS),
        "integrated_embedding": one_of("anchor", "mean"),
        "integration_epochs": whole(min=0),
        "integration_batch_size": whole(min=1),
        "integration_learning_rate": number(min=0),
        "integration_weight_decay": number(min=0),
        "integration_scheduler": one_of(*SCHEDULERS),
        "integration_warmup_epochs": number(min=0),
        "integration_stopping_step": whole(min=0),
        "integration_valid_users": whole(min=1),
        "encoder_input": one_of("item_id", "code_sum", "code_flat"),
        "n_decoder_layers": whole(min=1),
        "generation_reduction": one_of("mean", "sum"),
    }
    seq2seq: Transformer

    def __init__(
        self,
        config: GenRecConfig,
        dataset: GenRecDataset,
        saved: dict[str, Tensor] | None = None,
        teacher_table: TeacherTable = no_teacher,
    ) -> None:
        super().__init__(config, dataset, saved, teacher_table)
        self.integration: Integration | None = None
        self.item_table: nn.Embedding | None = None
        self.distillation: Distillation | None = None
        nn.init.normal_(self.token_table.weight, std=INITIAL_DEVIATION)
        self.register_buffer("integrated", torch.zeros(self.n_items, self._vector_size()))
        if self.source != "semantic" and self.uses_vectors:
            n_features = self.item_features.shape[1] if self.source == "integrated" else 0
            self.integration = Integration(config, self.n_items, n_features)
        if config["encoder_input"] == "item_id":
            self.item_table = nn.Embedding(self.n_items, config["hidden_size"])
            nn.init.normal_(self.item_table.weight, std=INITIAL_DEVIATION)
        if self.distills:
            self.distillation = Distillation(config, self._vector_size())

    @property
    def source(self) -> str:
        """Return the source of the codes: `semantic`, `collaborative`, `concat` or `integrated`."""
        return ABLATIONS[self.config["ablation"]][0]

    @property
    def distills(self) -> bool:
        """Return True if the generator learns the items' vectors too."""
        return ABLATIONS[self.config["ablation"]][1] and self.config["distillation_weight"] > 0

    @property
    def uses_vectors(self) -> bool:
        """Return True if the items' vectors are needed, for codes or for distillation."""
        return self.distills or not self.has_given_codes()

    # --- parts

    def make_features(self, dataset: GenRecDataset, teacher_table: TeacherTable) -> Tensor:
        """Return the semantic features; no columns where codes need none."""
        if self.source == "collaborative" or not self.uses_vectors:
            return torch.zeros(self.n_items, 0)
        wanted = self.config["item_features"]
        is_semantic = (
            set(wanted) - {"cf"}
            if isinstance(wanted, Mapping)
            else text_fields(self.config, dataset)
        )
        if not is_semantic:
            raise UserError(
                f"UNGER with ablation {self.config['ablation']} needs semantic features, but "
                f"item_features is {wanted!r} and {dataset.dataset_name!r} has no item text; add a "
                "text field (name:token_seq) to its .item file, give vectors with "
                "item_features={text: vectors.npy}, or set ablation to collaborative, which needs "
                "none."
            )
        return super().make_features(dataset, teacher_table)

    def check_features(self) -> None:
        """Check features only if codes are made of them: other vectors are not learned yet."""
        if self.source == "semantic":
            super().check_features()

    def _vector_size(self) -> int:
        """Return Z."""
        n_semantic, n_collaborative = self.item_features.shape[1], self.config["embedding_size"]
        if self.source == "semantic":
            return n_semantic
        return n_collaborative + (self._n_components() if self.source == "concat" else 0)

    def _n_components(self) -> int:
        """Return the number of principal components of the features that `concat` keeps."""
        return min(self.item_features.shape[1], self.config["embedding_size"], self.n_items - 1)

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Return residual k-means on the items' vectors (section 3.3.5).

        Its codes are unique unless there is a counter level. An RQ-VAE and random codes are what
        section 4.6 compares it with.
        """
        size = self._vector_size()
        if self.has_unique_codes() and not self.has_given_codes():
            return UniqueResidualKMeans.from_config(self.config, size)
        return self.chosen_tokenizer(size)

    def has_unique_codes(self) -> bool:
        """Return whether codes are given, or k-means has no counter to tell equal ones apart."""
        is_kmeans = self.config["tokenizer"] == "residual_kmeans"
        return self.has_given_codes() or (is_kmeans and not self.config["counter_size"])

    def make_seq2seq(self) -> Transformer:
        """Return a small Transformer (section 4.1.3).

        Its decoder reads the start token, the codes and the token of the distillation.
        """
        config, n_levels = self.config, self.semantic_ids.n_levels
        tokens_per_item = n_levels if config["encoder_input"] == "code_flat" else 1
        return Transformer(
            TransformerSize(
                hidden_size=config["hidden_size"],
                inner_size=config["inner_size"],
                n_encoder_layers=config["n_layers"],
                n_decoder_layers=config["n_decoder_layers"],
                n_heads=config["n_heads"],
                head_size=config["head_size"],
                hidden_dropout_prob=config["hidden_dropout_prob"],
                attn_dropout_prob=config["attn_dropout_prob"],
                n_source_positions=config["MAX_ITEM_LIST_LENGTH"] * tokens_per_item,
                n_target_positions=n_levels + 2,
            )
        )

    # --- stage I: the integrated embedding

    @torch.no_grad()
    def integration_recall(self, valid_data: Any) -> float:
        """Return the DIN's recall among the first max(topk) of the catalogue, 0 to 1.

        It is the recall for `integration_valid_users` users of the validation part, always the
        same, because a DIN scores every item for every user.
        """
        assert self.integration is not None
        rows = valid_data.dataset.inter_feat
        generator = torch.Generator().manual_seed(self.config["seed"])
        users = torch.randperm(len(rows), generator=generator)
        users = users[: self.config["integration_valid_users"]].sort().values
        hits = []
        for chunk in users.split(MAX_USERS):
            batch = rows[chunk].to(self.integrated.device)
            histories = batch[self.ITEM_SEQ][:, : int(batch[self.ITEM_SEQ_LEN].max())]
            ranked = self.integration.din.rank(histories, max(self.config["topk"]))
            hits.append((ranked == batch[self.ITEM_ID].unsqueeze(1)).any(dim=1))
        return float(torch.cat(hits).double().mean())

    # --- between the stages: codes

    @torch.no_grad()
    def start_tokenizer(self) -> None:
        """Take the items' vectors from stage I and fit the codebooks to them."""
        if self.uses_vectors:
            self.integrated.copy_(self._vectors())
            self.integrated[0] = 0
        super().start_tokenizer()

    def tokenizer_input(self) -> Tensor:
        """Return the vectors [n_items, Z] of which codes are made and which are distilled."""
        return self.integrated

    def _vectors(self) -> Tensor:
        """Return the integrated embedding [n_items, Z], or its stand-in in an ablation."""
        if self.integration is None:
            return self.item_features
        if self.source == "concat":
            return self.integration.concatenated(self.item_features, self._n_components())
        if self.source == "integrated" and self.config["integrated_embedding"] == "mean":
            return self.integration.mean(self.item_features)
        return self.integration.table

    # --- stage II: the generator

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Embed items [B, T] by a table of their own, or by their codes (section 3.4.1).

        `code_sum` adds the codes of an item up, `code_flat` puts them one after the other.
        """
        if self.item_table is not None:
            return self.item_table(item_id_list)
        embeddings = self.token_table(self.semantic_ids.tokens[item_id_list])
        is_sum = self.config["encoder_input"] == "code_sum"
        return embeddings.sum(2) if is_sum else embeddings.flatten(1, 2)

    def _scaled(self, logits: Tensor) -> Tensor:
        """Return logits unscaled: states come from a layer norm and the table is small."""
        return logits

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return the cross-entropy of the codes (equation 10) and the distillation (equation 11).

        Their sum is equation 12.
        """
        targets = interaction[self.ITEM_ID]
        memory, mask = self.encode_history(interaction)
        inputs = self.token_table(F.pad(self.semantic_ids.tokens[targets], (1, 0)))
        if self.distillation is not None:
            token = self.distillation.token.expand(len(inputs), 1, -1)
            inputs = torch.cat((inputs, token), dim=1)
        hidden = self.seq2seq.decode(inputs, memory, mask)
        losses = {"generation": self.generation_loss(hidden, targets)}
        if self.distillation is not None:
            losses["distillation"] = self.distillation.loss(hidden[:, -1], self.integrated, targets)
        return losses

    def generation_loss(self, hidden: Tensor, item_ids: Tensor) -> Tensor:
        """Return the cross-entropy of items [B]: the mean or the sum over levels."""
        log_probs = self.target_log_probs(hidden, item_ids)
        is_mean = self.config["generation_reduction"] == "mean"
        return -(log_probs.mean() if is_mean else log_probs.sum(1).mean())

    # --- stages

    def stages(self) -> tuple[Stage, ...]:
        """Return integrated embedding (unless codes are semantic or given), codes, generator."""
        stages = (self.tokenizer_stage(), self._generator_stage())
        if self.integration is None:
            return stages
        return (self._integration_stage(self.integration), *stages)

    def _integration_stage(self, integration: Integration) -> Stage:
        config = self.config
        group = Group(
            ("integration",),
            config["integration_learning_rate"],
            config["integration_weight_decay"],
        )
        return Stage(
            name="integration",
            rows="interactions",
            groups=(group,),
            losses=lambda interaction: integration.losses(
                interaction[self.ITEM_SEQ], interaction[self.ITEM_ID], self.item_features
            ),
            epochs=config["integration_epochs"],
            batch_size=config["integration_batch_size"],
            scheduler=config["integration_scheduler"],
            warmup_epochs=config["integration_warmup_epochs"],
            stopping_step=config["integration_stopping_step"],
            validate=self.integration_recall,
        )

    def _generator_stage(self) -> Stage:
        """Train the generator; its scores do not compete with the recall of stage I."""
        names = ("token_table", "seq2seq", "item_table", "distillation")
        trained = tuple(name for name in names if getattr(self, name) is not None)
        group = Group(trained, self.config["learning_rate"], self.config["weight_decay"])
        return replace(self.recommender_stage(), groups=(group,), keeps_best=False)
