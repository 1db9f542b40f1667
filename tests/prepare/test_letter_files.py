from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.features.item_features import item_matrix
from recbole_genrec.prepare.letter_files import is_letter_source, prepare_letter_files
from recbole_genrec.quick_start import create_dataset

SEQUENCES = {"0": [3, 0, 1, 2], "1": [], "u,2": [2, 3, 0, 2, 1]}
ITEMS = {
    "0": {"title": "red drum", "brand": "", "categories": "Drums,Toys", "description": "a\tdrum"},
    "2": {"title": "horn", "description": None, "also": ["x", "y"]},
    "1": {"title": '"old" flute'},
    "3": {},
    "4": {"title": "unseen"},
}
INDEX = {str(item): [f"<a_{item}>", "<b_1>"] for item in range(5)}
VECTORS = np.arange(10, dtype=np.float32).reshape(5, 2) ** 2


@pytest.fixture
def family(tmp_path):
    """Return a function of inter, item, index and "emb-x" that writes files named Toys."""

    def write(**files):
        folder = tmp_path / "family"
        folder.mkdir()
        for kind, content in files.items():
            if kind.startswith("emb"):
                np.save(folder / f"Toys.{kind}.npy", content)
            else:
                text = content if isinstance(content, str) else json.dumps(content, indent=1)
                (folder / f"Toys.{kind}.json").write_text(text)
        return folder

    return write


def test_the_whole_family(family, tmp_path, caplog):
    folder = family(
        inter=SEQUENCES,
        item=ITEMS,
        index=INDEX,
        **{"emb-llama-td": VECTORS, "emb-cf": VECTORS[:, :1].astype(np.float64)},
    )
    target = tmp_path / "data" / "toys"
    prepare_letter_files(folder, target, None)
    assert (target / "toys.inter").read_text().splitlines() == [
        "user_id:token\titem_id:token\ttimestamp:float",
        *("0\t3\t0", "0\t0\t1", "0\t1\t2", "0\t2\t3"),
        *("u,2\t2\t0", "u,2\t3\t1", "u,2\t0\t2", "u,2\t2\t3", "u,2\t1\t4"),
    ]
    assert (target / "toys.item").read_text(encoding="utf-8").splitlines() == [
        "item_id:token\ttitle:token_seq\tbrand:token_seq\tcategories:token_seq\tdescription:token_seq\talso:token_seq",
        "0\tred drum\t\tDrums,Toys\ta drum\t",
        "2\thorn\t\t\t\tx y",
        '1\t\u201cold" flute\t\t\t\t',
        "3\t\t\t\t\t",
    ]
    assert (target / "toys.index.json").read_bytes() == (folder / "Toys.index.json").read_bytes()
    for kind in ("emb-llama-td", "emb-cf"):
        assert (target / f"toys.{kind}.npy").read_bytes() == (
            folder / f"Toys.{kind}.npy"
        ).read_bytes()
        assert (target / f"toys.{kind}.tokens").read_text() == "0\n1\n2\n3\n4\n"
    card = json.loads((target / "data_card.json").read_text())
    assert card["timestamp"] == "position in the user's sequence"
    assert card["counts"] == {"users": 2, "items": 4, "interactions": 9}
    names = [
        "Toys.inter.json",
        "Toys.item.json",
        "Toys.index.json",
        "Toys.emb-cf.npy",
        "Toys.emb-llama-td.npy",
    ]
    assert [file["name"] for file in card["files"]] == names
    assert "1 of 3 users have no interactions" in caplog.text


def test_a_run_reads_the_embeddings_by_item(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare_letter_files(
        family(inter=SEQUENCES, item=ITEMS, **{"emb-x": VECTORS}), tmp_path / "data" / "toys", None
    )
    settings = {
        "data_path": str(tmp_path / "data"),
        "item_features": {"text": str(tmp_path / "data" / "toys" / "toys.emb-x.npy")},
        "feature_scaling": "raw",
    }
    config = GenRecConfig("TIGER", "toys", config_dict=settings)
    dataset = create_dataset(config)
    features = item_matrix(config, dataset)
    for number, token in enumerate(dataset.field2id_token["item_id"].tolist()):
        expected = [0, 0] if token == "[PAD]" else VECTORS[int(token)].tolist()
        assert torch.equal(features[number], torch.tensor(expected, dtype=torch.float32))


def test_interactions_alone_and_a_core(family, tmp_path):
    folder = family(inter={"a": ["007", "x"], "b": ["007", "y"]})
    prepare_letter_files(folder / "Toys.inter.json", tmp_path / "data" / "one", None)
    assert sorted(path.name for path in (tmp_path / "data" / "one").iterdir()) == [
        "data_card.json",
        "one.inter",
    ]
    assert (tmp_path / "data" / "one" / "one.inter").read_text().splitlines()[1:] == [
        "a\t007\t0",
        "a\tx\t1",
        "b\t007\t0",
        "b\ty\t1",
    ]
    with pytest.raises(UserError, match="2-core of 4 interactions is empty"):
        prepare_letter_files(folder, tmp_path / "data" / "two", 2)


def test_embeddings_of_a_core_keep_the_rows_of_the_catalogue(family, tmp_path):
    """Items 0 and 1 stay of three; the matrix names all its rows."""
    folder = family(inter={"a": [0, 1], "b": [1, 0, 2]}, **{"emb-x": VECTORS[:3]})
    prepare_letter_files(folder, tmp_path / "core", 2)
    assert (tmp_path / "core" / "core.emb-x.tokens").read_text() == "0\n1\n2\n"
    assert len((tmp_path / "core" / "core.inter").read_text().splitlines()) == 5


def test_items_without_codes_are_counted(family, tmp_path, caplog):
    prepare_letter_files(
        family(inter={"a": [0, 1, 2]}, index={"0": ["<a_1>"]}), tmp_path / "toys", None
    )
    assert "no codes for 2 of 3 items, such as '1'" in caplog.text


@pytest.mark.parametrize(
    "rows, words",
    [
        (VECTORS[:4], ["4 rows for 5 items", "none for item '4'"]),
        (np.concatenate([VECTORS, VECTORS[:1]]), ["6 rows for 5 items"]),
        (VECTORS[:, 0], ["shape [5]"]),
        (np.array([["a", "b"]] * 5), ["type <U1"]),
        (np.array([[None]] * 5, dtype=object), ["not a plain numpy array"]),
    ],
)
def test_embeddings_that_do_not_match_are_refused(family, tmp_path, rows, words):
    folder = family(inter=SEQUENCES, item=ITEMS, **{"emb-x": rows})
    with pytest.raises(UserError) as refusal:
        prepare_letter_files(folder, tmp_path / "data" / "toys", None)
    assert all(word in str(refusal.value) for word in [*words, "Toys.emb-x.npy"]), refusal.value
    assert not (tmp_path / "data").exists()


def test_embeddings_for_ids_that_are_no_rows(family, tmp_path):
    with pytest.raises(UserError, match="2 rows for 2 items, and none for item 'x'"):
        prepare_letter_files(
            family(inter={"a": [0, "x"]}, **{"emb-x": VECTORS[:2]}), tmp_path / "toys", None
        )


@pytest.mark.parametrize(
    "files, words",
    [
        ({"inter": "{"}, ["Toys.inter.json", "no JSON"]),
        ({"inter": "[[1, 2]]"}, ["Toys.inter.json", "list", "JSON object"]),
        ({"inter": {"a": "1 2"}}, ["'a'", "str", "item ids"]),
        ({"inter": {}}, ["no interaction"]),
        ({"inter": {"a": []}}, ["no interaction"]),
        ({"inter": {"a": [1], "b": [1, ""]}}, ["empty", "user 'b'"]),
        ({"inter": {"a": [1], "b": ["x\ty"]}}, ["'x\\ty'", "user 'b'"]),
        ({"inter": {"a": [1]}, "item": {"1": "horn"}}, ["Toys.item.json", "'1'", "texts"]),
        ({"inter": {"a": [1]}, "item": {}}, ["Toys.item.json", "no item"]),
        ({"inter": {"a": [1]}, "item": {"2": {"title": "x"}}}, ["'1'", "'2'"]),
        ({"inter": {"a": [1]}, "index": {"1": "<a_1>"}}, ["Toys.index.json", "codes"]),
    ],
)
def test_files_that_are_refused(family, tmp_path, files, words):
    with pytest.raises(UserError) as refusal:
        prepare_letter_files(family(**files), tmp_path / "data" / "toys", None)
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "data" / "toys").exists()


def test_sources(family, tmp_path):
    folder = family(inter=SEQUENCES)
    assert (
        is_letter_source(folder)
        and is_letter_source(folder / "Toys.inter.json")
        and is_letter_source(tmp_path / "no.inter.json")
    )
    assert not is_letter_source(tmp_path) and not is_letter_source(folder / "Toys.item.json")
    for source in (tmp_path, tmp_path / "no.inter.json"):
        with pytest.raises(MissingFileError, match=r"\.inter\.json"):
            prepare_letter_files(source, tmp_path / "toys", None)
    (folder / "Games.inter.json").write_text("{}")
    with pytest.raises(UserError, match="has 2 files"):
        prepare_letter_files(folder, tmp_path / "toys", None)
    for name, words in (("amazon-toys", "public data set"), ("a b", "no name")):
        with pytest.raises(UserError, match=words):
            prepare_letter_files(folder / "Toys.inter.json", tmp_path / name, None)
