"""Item text -> vectors by a sentence encoder: any model that the package sentence-transformers loads."""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from tqdm import tqdm

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import MissingPackageError, UserError
from recbole_genrec.features.cache import cached_features
from recbole_genrec.features.text import item_sentences

logger = logging.getLogger(__name__)

PREFIX = "sentence-transformers/"


def encoder_features(config, dataset: GenRecDataset, source: str) -> torch.Tensor:
    """The vectors of the item sentences, as the encoder gives them; kept in feature_cache_dir.

    Args:
        source: "sentence-transformers/" and then a folder with a model, a name of the hub with its
            owner (BAAI/bge-small-en-v1.5), or
            one without (all-MiniLM-L6-v2: a model of the owner sentence-transformers).

    Returns:
        FloatTensor [n_items, width of the encoder] (CPU); row 0 and items without text are zeros,
        as they are with TF-IDF: an encoder
        also has a vector for the empty text, but it means nothing.

    Raises:
        ImportError: the package sentence-transformers is not installed.
        ValueError: there is no such encoder, or no text.
    """
    name = _encoder_name(source)
    sentences = item_sentences(config, dataset)[1:]
    # No setting beside the texts: batch size and device change no more than the rounding.
    key = {
        "format": 1,
        "encoder": encoder_identity(source),
        "texts": hashlib.sha256("\n".join(sentences).encode()).hexdigest(),
    }

    def make() -> np.ndarray:
        return encode(
            sentences, name, config["device"], config["text_batch_size"], config["show_progress"]
        )

    vectors = cached_features(
        config["feature_cache_dir"], dataset.dataset_name, key, len(sentences), make
    )
    features = torch.zeros(len(sentences) + 1, vectors.shape[1])
    features[1:] = torch.from_numpy(vectors)
    return features


def encode(
    sentences: list[str], name: str, device, batch_size: int, show_progress: bool
) -> np.ndarray:
    """The vectors of sentences, float32 [n, width of the encoder]; empty sentences have zeros.

    Sentences are cut to the encoder's own limit, and share batches with those of about their
    length. The caller's random states
    are not touched.

    Args:
        name: a folder with a model, or the name of a model on the hub with its owner.

    Raises:
        ImportError: the package sentence-transformers is not installed.
        ValueError: there is no such encoder.
    """
    lengths = np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))
    # The longest first: a batch that does not fit into the memory fails at once.
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    with _own_random_states(torch.device(device)):
        encoder = _load_encoder(name, device)
        logger.info("Item text is encoded by %s on %s", name, device)
        batches = tqdm(
            range(0, len(order), batch_size),
            desc="Encoding item text",
            ncols=100,
            disable=not show_progress,
        )
        vectors = np.zeros((len(sentences), 0), dtype=np.float32)
        for start in batches:
            rows = order[start : start + batch_size]
            texts = [sentences[row] for row in rows]
            found = encoder.encode(
                texts,
                batch_size=batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
                device=str(device),
            )
            if not start:
                vectors = np.zeros((len(sentences), found.shape[1]), dtype=np.float32)
            vectors[rows] = found
    return vectors


def _encoder_name(source: str) -> str:
    """A folder, or the name on the hub with its owner."""
    name = os.path.expanduser(source[len(PREFIX) :])
    if os.path.isdir(name):
        return name
    owner, _, model = name.rpartition("/")
    if not model or "/" in owner or name.startswith(".") or os.path.isabs(name):
        raise UserError(
            f"the item feature source {source!r} names {name!r}, but there is no such folder and a name of the hub is a model or "
            "owner/model: correct it, or use tfidf"
        )
    return name if owner else f"{PREFIX}{model}"


def encoder_identity(source: str) -> str:
    """Of an encoder on the hub its name; of a folder the hash of its files, hidden ones left out, wherever it lies."""
    name = _encoder_name(source)
    if not os.path.isdir(name):
        return name
    digest = hashlib.sha256()
    for folder, subfolders, files in os.walk(name):
        subfolders[:] = sorted(
            subfolder for subfolder in subfolders if not subfolder.startswith(".")
        )
        for file in sorted(file for file in files if not file.startswith(".")):
            path = os.path.join(folder, file)
            digest.update(f"{os.path.relpath(path, name)}\n{os.path.getsize(path)}\n".encode())
            with open(path, "rb") as content:
                for block in iter(lambda: content.read(1 << 20), b""):
                    digest.update(block)
    return digest.hexdigest()


def _load_encoder(name: str, device):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingPackageError(
            f"the encoder {name!r} needs the package sentence-transformers, which cannot be imported ({error}): run "
            '`pip install "recbole-genrec[text]"` (in a checkout: `pip install -e ".[text]"`), or use the item feature source tfidf'
        ) from error
    try:
        # What lies on this disk first: no request, and no minutes of retries where there is no
        # network.
        return SentenceTransformer(
            name if os.path.isdir(name) else _cached_folder(name), device=str(device)
        )
    except Exception as error:
        # It raises OSError, ValueError, KeyError, SafetensorError ... according to what it finds
        # instead.
        if os.path.isdir(name):
            raise UserError(
                f"the folder {name!r} holds no encoder that sentence-transformers can load ({_short(error)}): give the folder of a "
                "saved model, or use the item feature source tfidf"
            ) from error
    try:
        _ask_hub(name)
        return SentenceTransformer(name, device=str(device))
    except Exception as error:
        raise UserError(
            f"the encoder {name!r} is no folder here and cannot be had from the hub ({_short(error)}): correct the name, give "
            f"{PREFIX}<folder of a saved model>, or use the item feature source tfidf"
        ) from error


def _cached_folder(name: str) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        name, cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"), local_files_only=True
    )


def _ask_hub(name: str) -> None:
    """One request that fails at once; the loading itself would try every file again and again for a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=30)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:200] + ' ...'}"


@contextmanager
def _own_random_states(device: torch.device) -> Iterator[None]:
    """Fixed random states inside, for weights that a model's files lack; those of the caller afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
