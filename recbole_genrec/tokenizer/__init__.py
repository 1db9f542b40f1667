"""Item features -> codes."""

from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.residual_kmeans import ResidualKMeans
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.tokenizer.soft_rqvae import SoftCodes, SoftRQVAE, codeword_uniformity

__all__ = ["ItemTokenizer", "RQVAE", "ResidualKMeans", "SoftCodes", "SoftRQVAE", "codeword_uniformity"]
