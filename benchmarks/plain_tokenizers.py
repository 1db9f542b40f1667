"""The yardstick of tokenizers: RQ-VAE and soft RQ-VAE in plain form, trained in a plain loop.

They follow the published code of LC-Rec and LETTER: a module per level, distances as
|x|^2 + |e|^2 - 2xe, a DataLoader, and a loss that is read in every step.

Shapes: B batch, K codebook size, C code width, D feature width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def layers(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    parts: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Level(nn.Module):
    """One codebook."""

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, code_dim)

    def distances(self, latent: Tensor) -> Tensor:
        """Return the squared distances [B, K] of latent vectors [B, C]."""
        weight = self.embedding.weight
        return (
            latent.square().sum(1, keepdim=True)
            + weight.square().sum(1).unsqueeze(0)
            - 2 * latent @ weight.t()
        )


class HardLevel(Level):
    """Nearest codewords with a straight-through gradient."""

    def __init__(self, codebook_size: int, code_dim: int, commitment_weight: float) -> None:
        super().__init__(codebook_size, code_dim)
        self.commitment_weight = commitment_weight

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return codewords [B, C] of latent vectors [B, C], and codebook plus commitment loss."""
        codeword = self.embedding(self.distances(latent).argmin(dim=-1))
        loss = F.mse_loss(codeword, latent.detach()) + self.commitment_weight * F.mse_loss(
            codeword.detach(), latent
        )
        return latent + (codeword - latent).detach(), loss


class SoftLevel(Level):
    """Expected codewords of a softmax over distances."""

    def __init__(
        self, codebook_size: int, code_dim: int, temperature: float, uniformity_weight: float
    ) -> None:
        super().__init__(codebook_size, code_dim)
        self.temperature, self.uniformity_weight = temperature, uniformity_weight

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return codewords [B, C] of latent vectors [B, C], and the loss of uneven use."""
        probabilities = torch.softmax(-self.distances(latent) / self.temperature, dim=-1)
        usage = probabilities.mean(dim=0)
        return probabilities @ self.embedding.weight, self.uniformity_weight * (
            usage * torch.log(usage + 1e-10)
        ).sum()


class PlainTokenizer(nn.Module):
    """An autoencoder around residual levels; `sizes` are D, hidden sizes, C."""

    def __init__(self, sizes: Sequence[int], levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.levels = (
            layers(sizes),
            layers(sizes[::-1]),
            nn.ModuleList(levels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the loss of features [B, D]."""
        residual = self.encoder(features)
        quantized, losses = torch.zeros_like(residual), []
        for level in self.levels:
            codeword, loss = level(residual)
            residual = residual - codeword
            quantized = quantized + codeword
            losses.append(loss)
        return F.mse_loss(self.decoder(quantized), features) + torch.stack(losses).mean()


class PlainLoop:
    """Epochs of a plain training loop over features [N, D]."""

    def __init__(
        self,
        model: PlainTokenizer,
        features: Tensor,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        is_mixed: bool = False,
    ) -> None:
        self.model, self.is_mixed = model, is_mixed
        self.loader = DataLoader(TensorDataset(features), batch_size=batch_size, shuffle=True)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def epoch(self, device: torch.device) -> float:
        """Train one epoch and return the mean loss of a batch."""
        self.model.train()
        total = 0.0
        for (batch,) in self.loader:
            self.optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=self.is_mixed):
                loss = self.model(batch.to(device))
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.loader)
