"""UNGER: "Generative Recommendation with A Unified Code via Semantic and Collaborative Integration" (arXiv 2502.06269)."""

# Shapes: B batch, T history length in items, L levels, D hidden size, Z width of an item's vector

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.config.declare import Declarations, list_of, number, one_of, whole
from recbole_genrec.config.shared import SCHEDULERS, hidden_sizes
from recbole_genrec.errors import UserError
from recbole_genrec.features.item_features import TeacherTable, no_teacher
from recbole_genrec.features.text import text_fields
from recbole_genrec.model.abstract import CHOSEN_TOKENIZER, GenerativeRecommender
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.model.unger.integration import Integration
from recbole_genrec.model.unger.sampled_losses import contrast_with_drawn
from recbole_genrec.model.unger.transformer import INITIAL_DEVIATION, Transformer, TransformerSize
from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.residual_kmeans import ResidualKMeans
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.tokenizer.unique_kmeans import UniqueResidualKMeans

# The rows of the paper's ablation table and two it leaves out: what the codes are made of, and
# whether the generator distills it.
VARIANTS = {
    "semantic": ("semantic", False),
    "collaborative": ("collaborative", False),
    "concat": ("concat", False),
    "cka": ("integrated", False),
    "cka_ikd": ("integrated", True),
    "collaborative_ikd": ("collaborative", True),
    "concat_ikd": ("concat", True),
}


class Distillation(nn.Module):
    """The token after the last code, and the map from its state to the space of the items' vectors (§3.4.3)."""

    def __init__(self, hidden_size: int, vector_size: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(hidden_size))
        nn.init.normal_(self.token, std=INITIAL_DEVIATION)
        self.map = nn.Linear(hidden_size, vector_size)

    def forward(self, states: Tensor) -> Tensor:
        """[B, D] -> [B, Z]; only the direction of a state counts."""
        return self.map(F.normalize(states, dim=-1))


class UNGER(GenerativeRecommender):
    """One code per item for what is said of it and what is done with it; a generator that also learns what the code has lost."""

    settings: ClassVar[Declarations] = {
        **CHOSEN_TOKENIZER,
        **RQVAE.settings,
        "variant": one_of(*VARIANTS),
        "embedding_size": whole(min=1),
        "integrated_embedding": one_of("anchor", "mean"),
        "din_attention_hidden_sizes": hidden_sizes(),
        "din_windows": list_of(whole(min=1), example="[20]"),
        "din_scorer": one_of("dot", "mlp"),
        "din_scorer_hidden_sizes": hidden_sizes(),
        "din_dropout_prob": number(min=0, below=1),
        "din_negatives": whole(min=1),
        "adaption_hidden_size": whole(min=1),
        "adaption_norm": one_of("adaptive", "plain", "none"),
        "alignment_weight": number(min=0),
        "alignment_similarity": one_of("cosine", "dot"),
        "alignment_temperature": number(above=0),
        "alignment_extra_items": whole(min=0),
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
        "distillation_weight": number(min=0),
        "distillation_negatives": whole(min=1),
        "distillation_temperature": number(above=0),
    }

    def __init__(
        self,
        config,
        dataset,
        saved: dict[str, Tensor] | None = None,
        teacher_table: TeacherTable = no_teacher,
    ) -> None:
        super().__init__(config, dataset, saved, teacher_table)
        nn.init.normal_(self.token_table.weight, std=INITIAL_DEVIATION)
        self.register_buffer("integrated", torch.zeros(self.n_items, self._vector_size()))
        if self.source != "semantic" and self.uses_vectors:
            n_features = self.item_features.shape[1] if self.source == "integrated" else 0
            self.integration = Integration(config, self.n_items, n_features)
        if config["encoder_input"] == "item_id":
            self.item_table = nn.Embedding(self.n_items, config["hidden_size"])
            nn.init.normal_(self.item_table.weight, std=INITIAL_DEVIATION)
        if self.distills:
            self.distillation = Distillation(config["hidden_size"], self._vector_size())

    @property
    def source(self) -> str:
        """What the codes are made of."""
        return VARIANTS[self.config["variant"]][0]

    @property
    def distills(self) -> bool:
        """Whether the generator learns the items' vectors, too."""
        return VARIANTS[self.config["variant"]][1] and self.config["distillation_weight"] > 0

    @property
    def uses_vectors(self) -> bool:
        """Whether anything is made of the items' vectors; with given codes and without distillation nothing is."""
        return self.distills or not self.has_given_codes()

    # --- parts
    # --------------------------------------------------------------------------------------------

    def has_unique_codes(self) -> bool:
        """Given codes are, and those of k-means unless a counter makes them so."""
        return self.has_given_codes() or (
            self.config["tokenizer"] == "residual_kmeans" and not self.config["counter_size"]
        )

    def check_features(self) -> None:
        """Codes are made of vectors that are not learned yet, unless the features are all there is."""
        if self.source == "semantic":
            super().check_features()

    def make_features(self, dataset, teacher_table: TeacherTable) -> Tensor:
        """The semantic features; none where the codes do without."""
        if self.source == "collaborative" or not self.uses_vectors:
            return torch.zeros(self.n_items, 0)
        wanted = self.config["item_features"]
        if not (
            set(wanted) - {"cf"}
            if isinstance(wanted, Mapping)
            else text_fields(self.config, dataset)
        ):
            raise UserError(
                f"the variant {self.config['variant']!r} of UNGER needs semantic features, but item_features is {wanted!r} and "
                f"{dataset.dataset_name!r} has no item text; add a text field (name:token_seq) to its .item file, give vectors with "
                "item_features={text: vectors.npy}, or set variant to collaborative, which needs none."
            )
        return super().make_features(dataset, teacher_table)

    def _vector_size(self) -> int:
        semantic, collaborative = self.item_features.shape[1], self.config["embedding_size"]
        components = min(semantic, collaborative, self.n_items - 1)
        return {"semantic": semantic, "concat": components + collaborative}.get(
            self.source, collaborative
        )

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Residual k-means on the items' vectors (§3.3.5), unique unless a counter level makes it so; or what §4.6 compares it with."""
        config, size = self.config, self._vector_size()
        if self.has_given_codes():
            return self.given_tokenizer(size)
        kmeans = ResidualKMeans if config["counter_size"] else UniqueResidualKMeans
        return (RQVAE if config["tokenizer"] == "rqvae" else kmeans).from_config(config, size)

    def make_seq2seq(self) -> Transformer:
        """A small Transformer (§4.1.3), with room for the distillation's token after the codes."""
        config = self.config
        n_levels = self.semantic_ids.n_levels
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
    # ------------------------------------------------------------------

    def integration_losses(self, interaction) -> dict[str, Tensor]:
        """Next item and alignment."""
        return self.integration.losses(
            interaction[self.ITEM_SEQ], interaction[self.ITEM_ID], self.item_features
        )

    def _recall(self, valid_data) -> float:
        """The DIN's recall at the longest ranked list, of some validation users that are always the same."""
        rows, generator = (
            valid_data.dataset.inter_feat,
            torch.Generator().manual_seed(self.config["seed"]),
        )
        chosen = (
            torch.randperm(len(rows), generator=generator)[: self.config["integration_valid_users"]]
            .sort()
            .values
        )
        fields = (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.ITEM_ID)
        return self.integration.recall(rows[chosen], fields, max(self.config["topk"]))

    # --- between the stages: codes
    # --------------------------------------------------------------------------

    @torch.no_grad()
    def start_tokenizer(self) -> None:
        """Take the items' vectors from what stage I has learned, and place the codebooks on them."""
        if self.uses_vectors:
            self.integrated.copy_(self._vectors())
            self.integrated[0] = 0
        super().start_tokenizer()

    def tokenizer_input(self) -> Tensor:
        """The vectors that the codes are made of and that the generator distills."""
        return self.integrated

    def _vectors(self) -> Tensor:
        """What the variant makes codes of: [n_items, Z]."""
        if self.source == "semantic":
            return self.item_features
        if self.source == "concat":
            return self.integration.concatenated(
                self.item_features, self._vector_size() - self.config["embedding_size"]
            )
        if self.source == "integrated" and self.config["integrated_embedding"] == "mean":
            return self.integration.mean(self.item_features)
        return self.integration.table

    # --- stage II: the generator
    # ----------------------------------------------------------------------------

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Items by a table of their own, or by their codes: summed, or one after the other."""
        if self.config["encoder_input"] == "item_id":
            return self.item_table(item_id_list)
        embeddings = self.token_table(self.semantic_ids.tokens[item_id_list])
        return (
            embeddings.sum(2)
            if self.config["encoder_input"] == "code_sum"
            else embeddings.flatten(1, 2)
        )

    def _scaled(self, logits: Tensor) -> Tensor:
        """States come from a layer norm and the table is small, so nothing has to be scaled."""
        return logits

    def losses(self, interaction) -> dict[str, Tensor]:
        """Cross-entropy of the next item's codes (equation 10), and distillation of its vector (equation 11)."""
        item_ids = interaction[self.ITEM_ID]
        memory, mask = self.encode_history(interaction)
        inputs = self.token_table(F.pad(self.semantic_ids.tokens[item_ids], (1, 0)))
        if self.distills:
            inputs = torch.cat((inputs, self.distillation.token.expand(len(inputs), 1, -1)), dim=1)
        hidden = self.seq2seq.decode(inputs, memory, mask)
        log_probs = self.target_log_probs(hidden, item_ids)
        losses = {
            "generation": -(
                log_probs.mean()
                if self.config["generation_reduction"] == "mean"
                else log_probs.sum(1).mean()
            )
        }
        if self.distills:
            losses["distillation"] = self.config["distillation_weight"] * self._distill(
                hidden[:, -1], item_ids
            )
        return losses

    def _distill(self, states: Tensor, item_ids: Tensor) -> Tensor:
        """The token's state should point to the target's vector, away from those of drawn items."""
        drawn = 1 + torch.randperm(self.n_items - 1)[: self.config["distillation_negatives"]].to(
            item_ids.device, non_blocking=True
        )
        is_target = drawn == item_ids.unsqueeze(1)
        vectors = (self.integrated[item_ids], self.integrated[drawn])
        return contrast_with_drawn(
            self.distillation(states), *vectors, is_target, self.config["distillation_temperature"]
        )

    # --- stages
    # -------------------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """Integrated embedding (where there is anything to learn of it), codes, generator."""
        stages = (self.tokenizer_stage(), self._generator_stage())
        return (self._integration_stage(), *stages) if hasattr(self, "integration") else stages

    def _integration_stage(self) -> Stage:
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
            losses=self.integration_losses,
            epochs=config["integration_epochs"],
            batch_size=config["integration_batch_size"],
            scheduler=config["integration_scheduler"],
            warmup_epochs=config["integration_warmup_epochs"],
            stopping_step=config["integration_stopping_step"],
            validate=self._recall,
        )

    def _generator_stage(self) -> Stage:
        optional = tuple(name for name in ("item_table", "distillation") if hasattr(self, name))
        config = self.config
        group = Group(
            ("token_table", "seq2seq", *optional), config["learning_rate"], config["weight_decay"]
        )
        return replace(self.recommender_stage(), groups=(group,), keeps_best=False)
