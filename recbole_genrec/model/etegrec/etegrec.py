"""ETEGRec: "Generative Recommender with End-to-End Learnable Item Tokenization" (SIGIR 2025, arXiv 2409.05546)."""

# Shapes: B batch, U distinct target items, S encoder tokens, L tokenizer levels, C code width, F
# feature width, D hidden size

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.model.losses import contrastive, first_rows, symmetric_kl_of_logits
from recbole_genrec.model.stage import Group, Phase, Stage
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.seq2seq.rms_norm import RMSNorm
from recbole_genrec.seq2seq.t5 import mean_state
from recbole_genrec.tokenizer.rqvae import RQVAE, Autoencoded

logger = logging.getLogger(__name__)

RECOMMENDER = ("token_table", "seq2seq", "sequence_adapter", "preference_adapter")


class View(NamedTuple):
    """What the recommender knows of U histories, in the spaces of the tokenizer."""

    sequence: Tensor  # [U, C], z^E of "Sequence-Item Alignment"
    preference: Tensor  # [U, F], h^D of "Preference-Semantic Alignment"


class ETEGRec(GenerativeRecommender):
    """Tokenizer and recommender take turns; two alignments let each of them learn from the other."""

    def __init__(self, config, dataset, saved: dict[str, Tensor] | None = None) -> None:
        super().__init__(config, dataset, saved)
        self.sequence_adapter = nn.Linear(config["hidden_size"], config["code_dim"])
        self.preference_adapter = nn.Linear(config["hidden_size"], self.item_features.shape[1])
        without = config["without"]
        self.sia_weight = 0.0 if without in ("sia", "alignment") else config["sia_weight"]
        self.psa_weight = 0.0 if without in ("psa", "alignment") else config["psa_weight"]
        self.aligns = False
        self.seen: dict[str, list[Tensor]] = {}
        self.codes_before = self.semantic_ids.codes  # before the epoch in progress
        self.start_recommender()

    def make_tokenizer(self, n_features: int) -> RQVAE:
        """RQ-VAE ("Item Tokenizer")."""
        return RQVAE.from_config(self.config, n_features)

    @torch.no_grad()
    def start_recommender(self) -> None:
        """Draw all weights of the recommender anew: as T5 and torch draw them, or as the released code does."""
        if self.config["initial_weights"] == "t5":
            self.seq2seq.load_state_dict(self.make_seq2seq().state_dict())
            for part in (self.token_table, self.sequence_adapter, self.preference_adapter):
                part.reset_parameters()
            return
        for part in RECOMMENDER:
            for module in self.get_submodule(part).modules():
                if isinstance(module, (nn.Linear, nn.Embedding)):
                    module.weight.normal_(std=self.config["initializer_range"])
                elif isinstance(module, RMSNorm):
                    module.weight.fill_(1.0)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """All codes of every item, counter included, oldest item first."""
        return self.token_table(self.semantic_ids.tokens[item_id_list].flatten(1))

    def _scaled(self, logits: Tensor) -> Tensor:
        """Weights drawn as the released code's go with plain inner products (equation 13), T5's larger ones with T5's scale."""
        return logits if self.config["initial_weights"] == "normal" else super()._scaled(logits)

    # --- losses
    # -------------------------------------------------------------------------------------------

    def losses(self, interaction) -> dict[str, Tensor]:
        """Recommendation alone, on semantic ids that stay (equation 13)."""
        item_ids = interaction[self.ITEM_ID]
        return {
            "generation": self.generation_loss(
                self.decode_targets(item_ids, *self.encode_history(interaction)), item_ids
            )
        }

    def tokenizer_losses(self, interaction) -> dict[str, Tensor]:
        """L_IT of a tokenizer epoch: quantization and both alignments of the distinct targets; the recommender is constant."""
        rows = first_rows(interaction[self.ITEM_ID])
        item_ids = interaction[self.ITEM_ID][rows]
        targets = self._autoencode(item_ids)
        if not self.aligns:
            return targets.losses
        with torch.no_grad():
            # Not interaction[rows]: RecBole makes a list of the rows, for which the host waits.
            memory, mask = self.encode_history(
                {name: column[rows] for name, column in interaction.interaction.items()}
            )
            start = torch.zeros_like(item_ids).unsqueeze(
                1
            )  # token 0; the first state depends on no other
            view = self._view(
                memory, mask, self.seq2seq.decode(self.token_table(start), memory, mask)[:, 0]
            )
        return {**targets.losses, **self._alignment(view, targets, item_ids)}

    def recommender_losses(self, interaction) -> dict[str, Tensor]:
        """L_GR of a recommender epoch: recommendation of all rows, alignments of distinct targets; the tokenizer is constant."""
        return self._generation_and_alignment(interaction, trains_tokenizer=False)

    def joint_losses(self, interaction) -> dict[str, Tensor]:
        """All terms at once, for the ablation without alternating training."""
        if self.config["retokenize_every"] == "step":
            self.semantic_ids.assign(self.tokenizer.encode(self.item_features[1:]))
        return self._generation_and_alignment(interaction, trains_tokenizer=True)

    def _generation_and_alignment(self, interaction, trains_tokenizer: bool) -> dict[str, Tensor]:
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
            losses.update(targets.losses)
        if self.aligns:
            losses.update(
                self._alignment(
                    self._view(memory[rows], mask[rows], hidden[rows, 0]), targets, item_ids[rows]
                )
            )
        return losses

    def _autoencode(self, item_ids: Tensor) -> Autoencoded:
        """Items [B] through the tokenizer; the codes that alignment compares are the named ones, so nothing is short."""
        with full_precision(self.item_features):
            return self.tokenizer.autoencode(self.item_features[item_ids])

    def _view(self, memory: Tensor, mask: Tensor, first_states: Tensor) -> View:
        """From encoder states [U, S, D] with their mask and the decoder's first states [U, D]."""
        return View(
            self.sequence_adapter(mean_state(memory, mask)), self.preference_adapter(first_states)
        )

    def _alignment(self, view: View, targets: Autoencoded, item_ids: Tensor) -> dict[str, Tensor]:
        """Sequence-item and preference-semantic alignment of distinct items [U], weighted; what has no weight is left out."""
        losses = {}
        if self.sia_weight:
            losses["sia"] = self.sia_weight * self._noted(
                "sia", self._sequence_item(view.sequence, targets)
            )
        if self.psa_weight:
            # Near-equal parts, so that the mean over them is the mean over items.
            n_parts = -(-len(item_ids) // self.config["contrastive_batch_size"])
            parts = zip(
                *(
                    tensor.tensor_split(n_parts)
                    for tensor in (view.preference, targets.reconstructed, item_ids)
                )
            )
            terms = [contrastive(*part, self.config["contrastive_temperature"]) for part in parts]
            losses["psa"] = self.psa_weight * self._noted("psa", torch.stack(terms).mean())
        return losses

    def _sequence_item(self, sequence: Tensor, targets: Autoencoded) -> Tensor:
        """Divergence of the code distributions of histories, as vectors [U, C], from those of their targets (equations 6 and 15).

        A history enters the quantizer without the tokenizer's encoder and goes its own way through
        the levels
        (`sia_path: own`, as released) or that of its target.
        """
        residuals, _ = self.tokenizer.follow(
            sequence, targets.codes if self.config["sia_path"] == "target" else None
        )
        sign = 1 if self.config["sia_sign"] == "minus" else -1
        of_target, of_history = (
            sign * self.tokenizer.closeness(each) for each in (targets.residuals, residuals)
        )
        self._noted("entropy", torch.special.entr(of_target.detach().softmax(-1)).sum(-1).mean())
        return symmetric_kl_of_logits(of_target, of_history)

    def _noted(self, name: str, value: Tensor) -> Tensor:
        """Keep a value for the log line of its epoch."""
        self.seen.setdefault(name, []).append(value.detach())
        return value

    # --- stages
    # -------------------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """Tokenizer alone, both in turns, fine-tuning on fixed semantic ids ("Alternating Optimization").

        The ablation without end-to-end learning starts the recommender anew on the final ids.
        """
        restart = (self._restart_stage(),) if self.config["without"] == "end_to_end" else ()
        return (self.tokenizer_stage(), self._end_to_end_stage(), *restart, self._finetune_stage())

    def _end_to_end_stage(self) -> Stage:
        config = self.config
        is_alternating = config["without"] != "alternation"
        groups = (
            Group(("tokenizer",), config["joint_tokenizer_learning_rate"], config["weight_decay"]),
            Group(RECOMMENDER, config["learning_rate"], config["weight_decay"]),
        )
        return replace(
            self.recommender_stage(),
            name="alternate" if is_alternating else "joint",
            groups=groups,
            losses=self.joint_losses,
            phases=self._phases(*groups) if is_alternating else (),
            before_epoch=self._switch_alignment,
            after_epoch=self._end_epoch,
        )

    def _phases(self, tokenizer: Group, recommender: Group) -> tuple[Phase, Phase]:
        """One epoch of the tokenizer, then the recommender's for the rest of the cycle."""
        n_turns, scheduler = self.config["cycle_epochs"] - 1, self.config["scheduler"]
        n_cycles, warmup = self.config["epochs"] // (n_turns + 1), self.config["warmup_epochs"]
        n_recommender = (
            self.config["epochs"] if self.config["schedule_span"] == "all" else n_cycles * n_turns
        )
        return (
            Phase(
                "tokenizer",
                1,
                (tokenizer,),
                self.tokenizer_losses,
                n_cycles,
                scheduler,
                warmup / (n_turns + 1),
            ),
            Phase(
                "recommender",
                n_turns,
                (recommender,),
                self.recommender_losses,
                n_recommender,
                scheduler,
                warmup,
            ),
        )

    def _switch_alignment(self, epoch: int) -> None:
        """Alignment waits until the recommender has learned something (released code)."""
        self.aligns = epoch >= self.config["alignment_warmup_epochs"]
        self.seen, self.codes_before = {}, self.semantic_ids.codes.clone()

    def _end_epoch(self, epoch: int) -> None:
        """Name the items anew whenever the tokenizer has been trained, and log the figures of the epoch."""
        n_turns = self.config["cycle_epochs"] if self.config["without"] != "alternation" else 1
        figures = [
            f"{name} {float(torch.stack(values).mean()):.5g}" for name, values in self.seen.items()
        ] or ["no alignment"]
        if epoch % n_turns == 0:
            self.refresh_semantic_ids()
            codes, before = (
                each[1:, : self.tokenizer.n_levels]
                for each in (self.semantic_ids.codes, self.codes_before)
            )
            figures.append(f"code churn {(codes != before).any(dim=1).float().mean():.2%}")
            figures.append(
                f"unique ids {len(codes.unique(dim=0))} of {len(codes)} before the counter"
            )
        logger.info("cycle %d epoch %d: %s", epoch // n_turns, epoch, ", ".join(figures))

    def _restart_stage(self) -> Stage:
        """A new recommender on the ids of the finished run, trained for as many epochs and without alignment."""
        epochs = self.config["epochs"] - self.config["epochs"] // self.config["cycle_epochs"]
        return replace(
            self.recommender_stage(),
            name="restart",
            epochs=epochs,
            start=self.start_recommender,
            keeps_best=False,
        )

    def _finetune_stage(self) -> Stage:
        stage = replace(self.finetune_stage(), keeps_best=self.config["keep_best"] == "global")
        if not self.config["finetune_alignment"]:
            return stage
        groups = (replace(stage.groups[0], names=RECOMMENDER),)
        return replace(
            stage, groups=groups, losses=self.recommender_losses, before_epoch=self._always_align
        )

    def _always_align(self, epoch: int) -> None:
        self.aligns, self.seen = True, {}
