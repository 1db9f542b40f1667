"""UNGER: "Generative Recommendation with A Unified Code via Semantic and Collaborative Integration" (arXiv 2502.06269)."""

# Shapes: B batch, T history length in items, L levels, D hidden size, Z width of an item's vector

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.data.item_features import principal_components
from recbole_genrec.data.text import text_fields
from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.seq2seq.adaptive_norm import ModalityAdaption
from recbole_genrec.seq2seq.din import DIN
from recbole_genrec.seq2seq.sampled_losses import alignment, contrast_with_drawn, sampled_softmax
from recbole_genrec.seq2seq.transformer import INITIAL_DEVIATION, Transformer, TransformerSize
from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.unique_kmeans import UniqueResidualKMeans

logger = logging.getLogger(__name__)

# The rows of the paper's ablation table and two it leaves out: what the codes are made of, and whether the generator distills it.
VARIANTS = {
    "semantic": ("semantic", False),
    "collaborative": ("collaborative", False),
    "concat": ("concat", False),
    "cka": ("integrated", False),
    "cka_ikd": ("integrated", True),
    "collaborative_ikd": ("collaborative", True),
    "concat_ikd": ("concat", True),
}
VALIDATION_BATCH = 64


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

    def __init__(self, config, dataset, saved: dict[str, Tensor] | None = None) -> None:
        super().__init__(config, dataset, saved)
        self.distills = VARIANTS[config["variant"]][1] and config["distillation_weight"] > 0
        nn.init.normal_(self.token_table.weight, std=INITIAL_DEVIATION)
        self.register_buffer("integrated", torch.zeros(self.n_items, self._vector_size()))
        if self.source != "semantic":
            self.din = DIN(
                n_items=self.n_items,
                size=config["embedding_size"],
                attention_hidden_sizes=config["din_attention_hidden_sizes"],
                scorer=config["din_scorer"],
                scorer_hidden_sizes=config["din_scorer_hidden_sizes"],
                windows=config["din_windows"],
                dropout=config["din_dropout_prob"],
            )
        if self.source == "integrated":
            sizes = (self.item_features.shape[1], config["adaption_hidden_size"], config["embedding_size"])
            self.adaption = ModalityAdaption(*sizes, config["adaption_norm"])
        if config["encoder_input"] == "item_id":
            self.item_table = nn.Embedding(self.n_items, config["hidden_size"])
            nn.init.normal_(self.item_table.weight, std=INITIAL_DEVIATION)
        if self.distills:
            self.distillation = Distillation(config["hidden_size"], self._vector_size())

    @property
    def source(self) -> str:
        """What the codes are made of."""
        return VARIANTS[self.config["variant"]][0]

    # --- parts --------------------------------------------------------------------------------------------

    def _check_catalogue(self) -> None:
        super()._check_catalogue()
        n_codes, n_items = self.config["codebook_size"] ** self.config["n_levels"], self.n_items - 1
        if n_codes < n_items:
            raise ValueError(
                f"n_levels and codebook_size give {n_codes} codes, but the catalogue has {n_items} items and each needs one of its own; "
                "raise one of them."
            )
        if not all(isinstance(size, int) and size > 0 for size in self.config["din_windows"]) or not self.config["din_windows"]:
            raise ValueError(f"din_windows is {self.config['din_windows']}, but has to be whole numbers of at least 1, such as [20].")

    def make_features(self, dataset) -> Tensor:
        """The semantic features; none for collaborative codes."""
        if self.source == "collaborative":
            return torch.zeros(self.n_items, 0)
        wanted = self.config["item_features"]
        if not ("text" in wanted if isinstance(wanted, Mapping) else text_fields(self.config, dataset)):
            raise ValueError(
                f"the variant {self.config['variant']!r} of UNGER needs semantic features, but item_features is {wanted!r} and the data set "
                f"{dataset.dataset_name!r} has no item text; add a text field (name:token_seq) to its .item file, give vectors with "
                "item_features={text: vectors.npy}, or set variant to collaborative, which needs none."
            )
        return super().make_features(dataset)

    def _vector_size(self) -> int:
        semantic, collaborative = self.item_features.shape[1], self.config["embedding_size"]
        components = min(semantic, collaborative, self.n_items - 1)
        return {"semantic": semantic, "concat": components + collaborative}.get(self.source, collaborative)

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Residual k-means with unique codes (§3.3.5), on the items' vectors."""
        config = self.config
        return UniqueResidualKMeans(
            n_features=self._vector_size(),
            n_levels=config["n_levels"],
            codebook_size=config["codebook_size"],
            kmeans_iterations=config["kmeans_iterations"],
        )

    def make_seq2seq(self) -> Transformer:
        """A small Transformer (§4.1.3), with room for the distillation's token after the codes."""
        config = self.config
        tokens_per_item = config["n_levels"] if config["encoder_input"] == "code_flat" else 1
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
                n_target_positions=config["n_levels"] + 2,
            )
        )

    # --- stage I: the integrated embedding ------------------------------------------------------------------

    def integration_losses(self, interaction) -> dict[str, Tensor]:
        """Next item (equation 4), and alignment of what is known of the batch's items (equation 3)."""
        history, targets = interaction[self.ITEM_SEQ], interaction[self.ITEM_ID]
        negatives = self._drawn(len(targets), self.config["din_negatives"])
        scores = self.din(history, torch.cat((targets.unsqueeze(1), negatives), dim=1))
        losses = {"next_item": sampled_softmax(scores[:, 0], scores[:, 1:], negatives == targets.unsqueeze(1), self.n_items - 1)}
        if self.source == "integrated" and self.config["alignment_weight"]:
            losses["alignment"] = self.config["alignment_weight"] * self._align(targets)
        return losses

    def _align(self, targets: Tensor) -> Tensor:
        """Over distinct items: the batch's targets and some others, or an item that is no target would never be aligned."""
        items = torch.cat((targets, self._drawn(self.config["alignment_extra_items"]))).unique()
        adapted = self.adaption(self.item_features[items])
        return alignment(self.din.table(items), adapted, self.config["alignment_similarity"], self.config["alignment_temperature"])

    def _drawn(self, *shape: int) -> Tensor:
        """Item ids of that shape, drawn uniformly; on the CPU, so that all devices see the same."""
        return torch.randint(1, self.n_items, shape).to(self.integrated.device)

    def _recall(self, valid_data) -> float:
        """Share of some validation users, always the same, whose next item is among the DIN's first of the whole catalogue."""
        config, rows = self.config, valid_data.dataset.inter_feat
        generator = torch.Generator().manual_seed(config["seed"])
        users = torch.randperm(len(rows), generator=generator)[: config["integration_valid_users"]].sort().values
        n_hits, k = 0, max(config["topk"])
        for part in users.split(VALIDATION_BATCH):
            batch = rows[part]
            history = batch[self.ITEM_SEQ][:, : int(batch[self.ITEM_SEQ_LEN].max())].to(self.integrated.device)
            n_hits += int((self.din.rank(history, k).cpu() == batch[self.ITEM_ID].unsqueeze(1)).sum())
        return n_hits / len(users)

    # --- between the stages: codes --------------------------------------------------------------------------

    @torch.no_grad()
    def start_tokenizer(self) -> None:
        """Take the items' vectors from what stage I has learned, and place the codebooks on them."""
        self.integrated.copy_(self._vectors())
        self.integrated[0] = 0
        super().start_tokenizer()

    def tokenizer_input(self) -> Tensor:
        """The vectors that the codes are made of and that the generator distills."""
        return self.integrated

    def _vectors(self) -> Tensor:
        """What the variant makes codes of (§3.3.4, §4.4): [n_items, Z]."""
        if self.source == "semantic":
            return self.item_features
        collaborative = self.din.table.weight
        if self.source == "concat":
            reduced = principal_components("text", self.item_features, self._vector_size() - collaborative.shape[1])
            return torch.cat((F.normalize(reduced, dim=1), F.normalize(collaborative, dim=1)), dim=1)
        if self.source == "integrated" and self.config["integrated_embedding"] == "mean":
            adapted = torch.cat([self.adaption(rows) for rows in self.item_features.split(2**14)])
            return (F.normalize(collaborative, dim=1) + F.normalize(adapted, dim=1)) / 2
        return collaborative

    # --- stage II: the generator ----------------------------------------------------------------------------

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Items by a table of their own, or by their codes: summed, or one after the other."""
        if self.config["encoder_input"] == "item_id":
            return self.item_table(item_id_list)
        embeddings = self.token_table(self.semantic_ids.tokens[item_id_list])
        return embeddings.sum(2) if self.config["encoder_input"] == "code_sum" else embeddings.flatten(1, 2)

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
        losses = {"generation": -(log_probs.mean() if self.config["generation_reduction"] == "mean" else log_probs.sum(1).mean())}
        if self.distills:
            losses["distillation"] = self.config["distillation_weight"] * self._distill(hidden[:, -1], item_ids)
        return losses

    def _distill(self, states: Tensor, item_ids: Tensor) -> Tensor:
        """The token's state should point to the target's vector, away from those of drawn items."""
        drawn = 1 + torch.randperm(self.n_items - 1)[: self.config["distillation_negatives"]].to(item_ids.device)
        is_target = drawn == item_ids.unsqueeze(1)
        vectors = (self.integrated[item_ids], self.integrated[drawn])
        return contrast_with_drawn(self.distillation(states), *vectors, is_target, self.config["distillation_temperature"])

    # --- stages -------------------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """Integrated embedding (unless codes are purely semantic), codes, generator."""
        stages = (self.tokenizer_stage(), self._generator_stage())
        return stages if self.source == "semantic" else (self._integration_stage(), *stages)

    def _integration_stage(self) -> Stage:
        config = self.config
        names = ("din", "adaption") if self.source == "integrated" else ("din",)
        return Stage(
            name="integration",
            rows="interactions",
            groups=(Group(names, config["integration_learning_rate"], config["integration_weight_decay"]),),
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
        group = Group(("token_table", "seq2seq", *optional), config["learning_rate"], config["weight_decay"])
        return replace(self.recommender_stage(), groups=(group,), keeps_best=False)
