"""UniGRec as its released code (Jialei-03/UniGRec) runs, for comparisons with it.

`--recipe=code` trains this class. docs/models/unigrec.md says what differs from the paper.

Shapes: B batch, T history length in items, S encoder tokens, N vectors, L levels, K codebook size,
C code width, D hidden size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.model.etegrec.etegrec import first_rows
from recbole_genrec.model.stage import Stage
from recbole_genrec.model.unigrec.soft_identifiers import SoftBatch
from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE
from recbole_genrec.model.unigrec.unigrec import Adapter, UniGRec
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.tokenizer.clustering import closeness

ADAPTER_DEVIATION = 0.02  # standard deviation of the adapters' weights


class ReleasedSoftRQVAE(SoftRQVAE):
    """A soft RQ-VAE whose distillation prefers the farthest codewords (released losses)."""

    def distributions(self, latent: Tensor, temperature: float) -> Tensor:
        """Return softmax(+squared distance) along the nearest codewords, [N, C] -> [N, L, K]."""
        levels = []
        with full_precision(latent):
            residual = latent.to(self.codebooks.dtype)
            for codebook in self.codebooks.unbind():
                near = closeness(residual, codebook) / (temperature * self.unit)
                levels.append((-near).softmax(dim=1))
                residual = residual - F.embedding(near.argmax(dim=1), codebook)
        return torch.stack(levels, dim=1)


class ReleasedAdapter(Adapter):
    """An adapter that stays as it is drawn and takes its input as it is (model/train.py)."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(sizes)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=ADAPTER_DEVIATION)

    def forward(self, states: Tensor) -> Tensor:
        """Map float [..., sizes[0]] -> [..., sizes[-1]]."""
        return self.layers(states)


def padded_state(states: Tensor, mask: Tensor) -> Tensor:
    """Pool encoder states [B, S, D] with their mask [B, S] to [B, D] as unigrec.py does.

    It negates an integer mask where it means a boolean one. Rows -2 and -1 of the batch (the last
    one only if there is padding) become zero in place of the padding. All positions are summed, and
    the sum is divided by the number of real ones.
    """
    rows = (~mask.long()).unique() % len(states)
    return states.index_fill(0, rows, 0.0).sum(1) / mask.sum(1, keepdim=True)


class ReleasedUniGRec(UniGRec):
    """UniGRec with the released code's reconstruction and distillation."""

    tokenizer_class = ReleasedSoftRQVAE
    adapter_class = ReleasedAdapter
    pool = staticmethod(padded_state)

    def soft_batch(self, item_id_list: Tensor, item_ids: Tensor) -> SoftBatch:
        """Encode histories that are padded to the maximum length, because padding counts here."""
        n_missing = self.config["MAX_ITEM_LIST_LENGTH"] - item_id_list.shape[1]
        return super().soft_batch(F.pad(item_id_list, (0, n_missing)), item_ids)

    def embed_soft_batch(self, batch: SoftBatch) -> tuple[Tensor, Tensor]:
        """Put token 0 in the slots of padding items."""
        embeddings, mask = super().embed_soft_batch(batch)
        return embeddings.where(mask.unsqueeze(-1), self.token_table.weight[0]), mask

    def reconstruction(self, batch: SoftBatch) -> Tensor:
        """Average the error of all slots, padding among them, with the error of the targets."""
        errors = self.squared_errors(batch)[batch.rows]
        return 0.5 * (errors[:, :-1].mean() + errors[:, -1].mean())

    def distillation(
        self, pooled: Tensor, first_states: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Distill the first row of every distinct target and drop the other rows."""
        rows = first_rows(targets)
        return super().distillation(pooled[rows], first_states[rows], targets[rows])

    def joint_stage(self) -> Stage:
        """Leave the adapters out of the optimizer."""
        stage = super().joint_stage()
        return replace(stage, groups=stage.groups[:2])
