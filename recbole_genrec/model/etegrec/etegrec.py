"""ETEGRec: generative recommender with end-to-end learnable item tokenization.

Liu et al., SIGIR 2025, arXiv 2409.05546; equations as numbered in version 3.

Shapes: B batch, U distinct target items, S encoder tokens, L tokenizer levels, C code width,
F feature width, D hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_genrec.config.declare import Declarations, number, one_of, whole
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import UserError
from recbole_genrec.features.item_features import TeacherTable, no_teacher
from recbole_genrec.model.abstract import FINETUNE, GenerativeRecommender
from recbole_genrec.model.losses import contrastive, symmetric_kl_of_logits
from recbole_genrec.model.stage import Group, Phase, Stage
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.seq2seq.rms_norm import RMSNorm
from recbole_genrec.seq2seq.t5 import mean_state
from recbole_genrec.tokenizer.rqvae import RQVAE, Autoencoded

logger = logging.getLogger(__name__)

RECOMMENDER = ("token_table", "seq2seq", "sequence_adapter", "preference_adapter")


class View(NamedTuple):
    """The recommender's view of U histories, in the spaces of the tokenizer."""

    sequence: Tensor  # [U, C], z^E of "Sequence-Item Alignment"
    preference: Tensor  # [U, F], h^D of "Preference-Semantic Alignment"


class ETEGRec(GenerativeRecommender):
    """Tokenizer and recommender take turns; two alignments let each learn from the other."""

    tokenizer: RQVAE
    item_features: Tensor

    settings: ClassVar[Declarations] = {
        **RQVAE.settings,
        **FINETUNE,
        "ablation": one_of("none", "sia", "psa", "alignment", "alternation", "end_to_end"),
        "retokenize_every": one_of("step", "epoch"),
        "initial_weights": one_of("t5", "normal"),
        "initializer_range": number(min=0),
        "cycle_epochs": whole(min=2),
        "joint_tokenizer_learning_rate": number(min=0),
        "sia_weight": number(min=0),
        "psa_weight": number(min=0),
        "contrastive_temperature": number(above=0),
        "contrastive_batch_size": whole(min=1),
        "alignment_warmup_epochs": number(min=0),
    }

    @classmethod
    def check_settings(cls, settings: dict[str, Any]) -> None:
        """Also refuse a last cycle that would not be completed."""
        super().check_settings(settings)
        epochs, cycle_epochs = settings["epochs"], settings["cycle_epochs"]
        if epochs % cycle_epochs:
            raise UserError(
                f"epochs is {epochs}, but has to be a multiple of cycle_epochs, which is "
                f"{cycle_epochs}: the last cycle would stop half-way"
            )

    def __init__(
        self,
        config: GenRecConfig,
        dataset: GenRecDataset,
        saved: dict[str, Tensor] | None = None,
        teacher_table: TeacherTable = no_teacher,
    ) -> None:
        super().__init__(config, dataset, saved, teacher_table)
        self.sequence_adapter = nn.Linear(config["hidden_size"], config["code_dim"])
        self.preference_adapter = nn.Linear(config["hidden_size"], self.item_features.shape[1])
        off = config["ablation"]
        self.sia_weight = 0.0 if off in ("sia", "alignment") else config["sia_weight"]
        self.psa_weight = 0.0 if off in ("psa", "alignment") else config["psa_weight"]
        self.aligns = False
        self.figures: dict[str, list[Tensor]] = {}  # of the epoch in progress
        self.codes_before = self.semantic_ids.codes  # before that epoch
        self.start_recommender()

    def make_tokenizer(self, n_features: int) -> RQVAE:
        """Return the RQ-VAE of "Item Tokenizer"."""
        return RQVAE.from_config(self.config, n_features)

    @torch.no_grad()
    def start_recommender(self) -> None:
        """Draw all weights of the recommender as `initial_weights` says."""
        if self.config["initial_weights"] == "t5":
            self.seq2seq.load_state_dict(self.make_seq2seq().state_dict())
            for part in (self.token_table, self.sequence_adapter, self.preference_adapter):
                part.reset_parameters()
            return
        for name in RECOMMENDER:
            for module in self.get_submodule(name).modules():
                if isinstance(module, (nn.Linear, nn.Embedding)):
                    module.weight.normal_(std=self.config["initializer_range"])
                elif isinstance(module, RMSNorm):
                    module.weight.fill_(1.0)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()

    def _scaled(self, logits: Tensor) -> Tensor:
        """Leave inner products as they are (equation 13), unless the weights have T5's scale."""
        return logits if self.config["initial_weights"] == "normal" else super()._scaled(logits)

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Embed histories, int64 [B, T] -> float [B, T * (L + 1), D], counters among the tokens."""
        return self.token_table(self.semantic_ids.tokens[item_id_list].flatten(1))

    # --- losses

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return L_REC on fixed semantic ids (equation 13)."""
        item_ids = interaction[self.ITEM_ID]
        hidden = self.decode_targets(item_ids, *self.encode_history(interaction))
        return {"generation": self.generation_loss(hidden, item_ids)}

    def tokenizer_losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return L_IT: L_SQ and alignments of distinct targets, the recommender constant."""
        rows = first_rows(interaction[self.ITEM_ID])
        item_ids = interaction[self.ITEM_ID][rows]
        targets = self._autoencode(item_ids)
        if not self.aligns:
            return targets.losses
        with torch.no_grad():
            # RecBole's interaction[rows] makes a list of the rows, for which the host waits.
            view = self._view_first_states(
                {name: column[rows] for name, column in interaction.interaction.items()}
            )
        return {**targets.losses, **self._alignment(view, targets, item_ids)}

    def recommender_losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return L_GR: L_REC of all rows, alignments of distinct targets, tokenizer constant."""
        return self._generation_and_alignment(interaction, trains_tokenizer=False)

    def joint_losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Return all terms at once, for the ablation without alternating training."""
        if self.config["retokenize_every"] == "step":
            self.semantic_ids.assign(self.tokenizer.encode(self.item_features[1:]))
        return self._generation_and_alignment(interaction, trains_tokenizer=True)

    def _generation_and_alignment(
        self, interaction: Interaction, trains_tokenizer: bool
    ) -> dict[str, Tensor]:
        item_ids = interaction[self.ITEM_ID]
        memory, mask = self.encode_history(interaction)
        hidden = self.decode_targets(item_ids, memory, mask)
        losses = {"generation": self.generation_loss(hidden, item_ids)}
        if not trains_tokenizer and not self.aligns:
            return losses
        rows = first_rows(item_ids)
        with torch.set_grad_enabled(trains_tokenizer):
            targets = self._autoencode(item_ids[rows])
        if trains_tokenizer:
            losses |= targets.losses
        if self.aligns:
            view = self._view(memory[rows], mask[rows], hidden[rows, 0])
            losses |= self._alignment(view, targets, item_ids[rows])
        return losses

    def _autoencode(self, item_ids: Tensor) -> Autoencoded:
        """Run items [U] through the tokenizer, in the precision that gave them their names."""
        with full_precision(self.item_features):
            return self.tokenizer.autoencode(self.item_features[item_ids])

    def _view(self, memory: Tensor, mask: Tensor, first_states: Tensor) -> View:
        """Map encoder states [U, S, D], their mask [U, S] and the decoder's first states [U, D]."""
        sequence = self.sequence_adapter(mean_state(memory, mask))
        return View(sequence, self.preference_adapter(first_states))

    def _view_first_states(self, batch: Mapping[str, Tensor]) -> View:
        """View histories after one decoder step, since the first state depends on no target."""
        memory, mask = self.encode_history(batch)
        start = mask.new_zeros(len(mask), 1, dtype=torch.long)
        hidden = self.seq2seq.decode(self.token_table(start), memory, mask)
        return self._view(memory, mask, hidden[:, 0])

    def _alignment(self, view: View, targets: Autoencoded, item_ids: Tensor) -> dict[str, Tensor]:
        """Return the weighted alignments of U distinct items; a weight of 0 leaves its term out."""
        losses = {}
        if self.sia_weight:
            sia = self._noted("sia", self._sequence_item(view.sequence, targets))
            losses["sia"] = self.sia_weight * sia
        if self.psa_weight:
            psa = self._noted("psa", self._preference_semantic(view.preference, targets, item_ids))
            losses["psa"] = self.psa_weight * psa
        return losses

    def _sequence_item(self, sequence: Tensor, targets: Autoencoded) -> Tensor:
        """Return L_SIA, the divergence of code distributions of histories and targets (6, 15).

        A history [U, C] enters the quantizer without the tokenizer's encoder and follows its own
        codes through the levels (released code).
        """
        residuals, _ = self.tokenizer.follow(sequence)
        of_target = self.tokenizer.closeness(targets.residuals)
        self._noted("entropy", torch.special.entr(of_target.detach().softmax(-1)).sum(-1).mean())
        return symmetric_kl_of_logits(of_target, self.tokenizer.closeness(residuals))

    def _preference_semantic(
        self, preference: Tensor, targets: Autoencoded, item_ids: Tensor
    ) -> Tensor:
        """Return L_PSA, InfoNCE of preferences [U, F] and reconstructed targets (equation 16)."""
        # Near-equal parts, so that the mean over them is the mean over items.
        n_parts = -(-len(item_ids) // self.config["contrastive_batch_size"])
        tensors = (preference, targets.reconstructed, item_ids)
        parts = zip(*(tensor.tensor_split(n_parts) for tensor in tensors))
        temperature = self.config["contrastive_temperature"]
        return torch.stack([contrastive(*part, temperature) for part in parts]).mean()

    def _noted(self, name: str, value: Tensor) -> Tensor:
        """Keep a value for the log line of its epoch."""
        self.figures.setdefault(name, []).append(value.detach())
        return value

    # --- stages

    def stages(self) -> tuple[Stage, ...]:
        """Return tokenizer, both in turns, fine-tuning on fixed ids ("Alternating Optimization").

        The ablation without end-to-end learning starts a new recommender on the final ids.
        """
        restart = (self._restart_stage(),) if self.config["ablation"] == "end_to_end" else ()
        return (self.tokenizer_stage(), self._end_to_end_stage(), *restart, self.finetune_stage())

    def _end_to_end_stage(self) -> Stage:
        config = self.config
        alternates = config["ablation"] != "alternation"
        groups = (
            Group(("tokenizer",), config["joint_tokenizer_learning_rate"], config["weight_decay"]),
            Group(RECOMMENDER, config["learning_rate"], config["weight_decay"]),
        )
        return replace(
            self.recommender_stage(),
            name="alternate" if alternates else "joint",
            groups=groups,
            losses=self.joint_losses,
            phases=self.phases(*groups) if alternates else (),
            before_epoch=self._start_epoch,
            after_epoch=self._end_epoch,
        )

    def phases(self, tokenizer: Group, recommender: Group) -> tuple[Phase, Phase]:
        """Return one epoch of the tokenizer, then the recommender's for the rest of the cycle."""
        config = self.config
        scheduler, warmup = config["scheduler"], config["warmup_epochs"]
        cycle_epochs, n_turns = config["cycle_epochs"], config["cycle_epochs"] - 1
        n_cycles = config["epochs"] // cycle_epochs
        return (
            Phase(
                name="tokenizer",
                turns=1,
                groups=(tokenizer,),
                losses=self.tokenizer_losses,
                epochs=n_cycles,
                scheduler=scheduler,
                warmup_epochs=warmup / cycle_epochs,
            ),
            Phase(
                name="recommender",
                turns=n_turns,
                groups=(recommender,),
                losses=self.recommender_losses,
                epochs=n_cycles * n_turns,
                scheduler=scheduler,
                warmup_epochs=warmup,
            ),
        )

    def _start_epoch(self, epoch: int) -> None:
        """Start alignment once the recommender has had its warm-up epochs (released code)."""
        self.aligns = epoch >= self.config["alignment_warmup_epochs"]
        self.figures, self.codes_before = {}, self.semantic_ids.codes.clone()

    def _end_epoch(self, epoch: int) -> None:
        """Rename the items if the tokenizer has been trained, and log the figures of the epoch."""
        n_turns = self.config["cycle_epochs"] if self.config["ablation"] != "alternation" else 1
        words = [
            f"{name} {float(torch.stack(values).mean()):.5g}"
            for name, values in self.figures.items()
        ] or ["no alignment"]
        if epoch % n_turns == 0:
            self.refresh_semantic_ids()
            n_levels = self.tokenizer.n_levels
            codes = self.semantic_ids.codes[1:, :n_levels]
            changed = (codes != self.codes_before[1:, :n_levels]).any(dim=1)
            words.append(f"code churn {changed.float().mean():.2%}")
            n_unique = len(codes.unique(dim=0))
            words.append(f"unique ids {n_unique} of {len(codes)} before the counter")
        logger.info("cycle %d epoch %d: %s", epoch // n_turns, epoch, ", ".join(words))

    def _restart_stage(self) -> Stage:
        """Train a new recommender for as many epochs, without alignment, on the final ids."""
        epochs = self.config["epochs"] - self.config["epochs"] // self.config["cycle_epochs"]
        return replace(
            self.recommender_stage(),
            name="restart",
            epochs=epochs,
            start=self.start_recommender,
            keeps_best=False,
        )


def first_rows(item_ids: Tensor) -> Tensor:
    """Return the row of every distinct item's first occurrence, int64 [B] -> [U], ascending.

    Source: the released code compares distinct target items only.
    """
    items, index = item_ids.unique(return_inverse=True)
    rows = torch.arange(len(item_ids), device=item_ids.device)
    first = torch.full_like(items, len(item_ids)).scatter_reduce_(0, index, rows, "amin")
    return first.sort().values
