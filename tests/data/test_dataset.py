import http.client
import logging
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.config import Config
from recbole.data.dataset import SequentialDataset

from recbole_genrec.data import files
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import MissingFileError, UserError

HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def sequence(user, items, start=0):
    return [(user, item, start + step) for step, item in enumerate(items)]


def random_rows(n_users=40, n_items=15, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        length = 4 if user == 0 else generator.integers(1, 12)
        rows += [
            (f"u{user}", f"i{generator.integers(n_items)}", 0, int(generator.integers(5)))
            for _ in range(length)
        ]
    order = generator.permutation(len(rows))
    return [
        (rows[j][0], rows[j][1], 1000.0 * position, rows[j][3]) for position, j in enumerate(order)
    ]


def columns_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for field in theirs:
        assert ours[field].dtype == theirs[field].dtype, field
        assert torch.equal(ours[field], theirs[field]), field


def assert_same_parts(config_of):
    ours, theirs = GenRecDataset(config_of()).build(), SequentialDataset(config_of()).build()
    columns_equal(ours[0].inter_feat, theirs[0].inter_feat)
    for mine, other in zip(ours[1:], theirs[1:]):
        order = torch.argsort(other.inter_feat["item_length"], stable=True)
        columns_equal(mine.inter_feat, other.inter_feat[order])
    return ours


@pytest.mark.parametrize("max_length", [1, 3, 20])
def test_augmentation_equals_recboles_on_random_data(make_config, max_length):
    rows = random_rows()
    header = HEADER + "\trating:float"
    parts = assert_same_parts(
        lambda: make_config(rows, header=header, MAX_ITEM_LIST_LENGTH=max_length)
    )
    assert min(len(part) for part in parts) > 20


def test_augmentation_equals_recboles_on_ml_100k(make_config, tmp_path):
    source = Config(model="Pop", dataset="ml-100k")["data_path"]
    table = pd.read_csv(f"{source}/ml-100k.inter", sep="\t")
    table = table.sort_values("timestamp:float", kind="stable")[HEADER.split("\t")]
    (tmp_path / "ml").mkdir()
    table.to_csv(tmp_path / "ml" / "ml.inter", sep="\t", index=False)
    parts = assert_same_parts(lambda: make_config(name="ml", MAX_ITEM_LIST_LENGTH=20))
    assert [len(part) for part in parts] == [100000 - 3 * 943, 943, 943]


def test_rows_of_a_literal_user(make_config):
    train, valid, test = GenRecDataset(make_config(sequence("a", "pqrstu"))).build()
    assert train.inter_feat["item_id_list"].tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3]]
    assert train.inter_feat["item_id"].tolist() == [2, 3, 4]
    assert train.inter_feat["item_length"].tolist() == [1, 2, 3]
    assert (valid.inter_feat["item_id_list"].tolist(), valid.inter_feat["item_id"].tolist()) == (
        [[2, 3, 4]],
        [5],
    )
    assert (test.inter_feat["item_id_list"].tolist(), test.inter_feat["item_id"].tolist()) == (
        [[3, 4, 5]],
        [6],
    )


def test_times_one_second_apart_keep_their_order_and_ties_the_order_of_the_file(make_config):
    # Near 1.4e9 float32 has one value per 128 seconds: RecBole itself leaves these rows in the
    # order of the file.
    rows = [
        ("a", item, 1_400_000_000 + second)
        for item, second in zip("edcbzya", (4, 3, 2, 1, 5, 5, 0))
    ]
    dataset = GenRecDataset(make_config(rows))
    test = dataset.build()[2]
    tokens = dataset.field2id_token["item_id"]
    assert [tokens[i] for i in dataset.sequences.items] == list("abcdezy")
    assert [tokens[i] for i in test.inter_feat["item_id_list"][0]] == list("dez")
    assert tokens[test.inter_feat["item_id"][0]] == "y"


def test_removal_of_duplicates_keeps_ties_in_the_order_of_the_file(make_config):
    items = [f"i{j}" for j in range(200)]
    rows = [("a", item, j % 2) for j, item in enumerate(items)] + [("a", "i0", 7)]
    dataset = GenRecDataset(make_config(rows, rm_dup_inter="first"))
    tokens = dataset.field2id_token["item_id"]
    assert [tokens[i] for i in dataset.sequences.items] == items[0::2] + items[1::2]


def test_sequences_hold_all_interactions_by_user(make_config):
    rows = sequence("b", "xyzw") + sequence("a", "yx") + sequence("c", "w")
    dataset = GenRecDataset(make_config(rows))
    assert dataset.sequences.starts.tolist() == [0, 0, 4, 6, 7]
    assert dataset.sequences.items.tolist() == [1, 2, 3, 4, 2, 1, 4]
    assert dataset.sequences.lengths().tolist() == [0, 4, 2, 1]
    assert dataset.build()[0].sequences is dataset.sequences


def test_evaluation_rows_are_ordered_by_history_length(make_config):
    rows = (
        sequence("a", "xyzwvu")
        + sequence("b", "yxwz")
        + sequence("c", "wvxyz")
        + sequence("d", "xyz")
        + sequence("e", "xy")
    )
    _, valid, test = GenRecDataset(make_config(rows, MAX_ITEM_LIST_LENGTH=10)).build()
    assert valid.inter_feat["item_length"].tolist() == [2, 3, 4]
    assert valid.inter_feat["user_id"].tolist() == [2, 3, 1]
    assert test.inter_feat["item_length"].tolist() == [2, 3, 4, 5]
    assert test.inter_feat["user_id"].tolist() == [4, 2, 3, 1]


def test_fingerprint_tells_data_and_split_apart_and_nothing_else(make_config):
    rows = sequence("a", "xyzwv") + sequence("b", "yxw")

    def fingerprint(rows, **settings):
        return GenRecDataset(make_config(rows, **settings)).fingerprint()

    original = fingerprint(rows)
    assert fingerprint(rows, MAX_ITEM_LIST_LENGTH=9, model="GRU4Rec", seed=5) == original
    later = [(user, item, time + 50) for user, item, time in rows]
    assert fingerprint(later) == original
    changed = [
        fingerprint(sequence("a", "xyzvw") + rows[5:]),
        fingerprint([("A" if user == "a" else user, item, time) for user, item, time in rows]),
        fingerprint([(user, "X" if item == "x" else item, time) for user, item, time in rows]),
        fingerprint(rows[:-1]),
        fingerprint(
            rows,
            eval_args={
                "split": {"LS": "test_only"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
        ),
    ]
    assert len({original, *changed}) == 6
    dataset = GenRecDataset(make_config(rows))
    assert [part.fingerprint() for part in dataset.build()] == [original] * 3


def test_items_known_only_to_the_item_file_are_no_candidates(make_config, tmp_path):
    config = make_config(sequence("a", "xyzw"))
    (tmp_path / "toy" / "toy.item").write_text("item_id:token\ttitle:token_seq\nx\tone\nq\ttwo\n")
    assert GenRecDataset(config).item_num == 5


def test_short_users_are_counted(make_config, caplog):
    rows = sequence("a", "xyzw") + sequence("b", "xy") + sequence("c", "x") + sequence("d", "xyz")
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        GenRecDataset(make_config(rows)).build()
    assert caplog.messages == [
        "2 of 4 users have fewer than 3 interactions: they are not evaluated"
    ]


def test_only_short_users_are_an_error(make_config):
    with pytest.raises(UserError, match="longest of 2 users of 'toy' has 2 interactions"):
        GenRecDataset(make_config(sequence("a", "xy") + sequence("b", "yz"))).build()


def test_unusable_files_are_named(make_config, tmp_path):
    (tmp_path / "toy").mkdir()
    with pytest.raises(MissingFileError, match=r"has no file 'toy.inter'"):
        GenRecDataset(make_config())
    with pytest.raises(UserError, match=r"toy.inter' holds 0 interactions"):
        GenRecDataset(make_config([]))
    (tmp_path / "toy" / "toy.inter").write_text("")
    with pytest.raises(UserError, match="needs columns named 'name:type'"):
        GenRecDataset(make_config())
    with pytest.raises(UserError, match=r"lacks \['timestamp'\]"):
        GenRecDataset(make_config([("a", "x")], header="user_id:token\titem_id:token"))
    with pytest.raises(UserError, match="declares 'timestamp' as 'token'"):
        GenRecDataset(make_config(sequence("a", "xyz"), header=HEADER.replace("float", "token")))
    with pytest.raises(UserError, match=r"1 rows of .*toy.inter' have no 'timestamp'"):
        GenRecDataset(make_config([("a", "x", 1), ("a", "y", ""), ("a", "z", 3)]))
    with pytest.raises(UserError, match="does not load"):
        GenRecDataset(make_config(sequence("a", "xyz"), load_col={"inter": ["user_id", "item_id"]}))


def test_filters_that_leave_nothing_are_an_error(make_config):
    with pytest.raises(UserError, match="filters leave 0 interactions"):
        GenRecDataset(make_config(sequence("a", "xyzw"), val_interval={"timestamp": "[100,inf)"}))


def test_a_missing_folder_is_named(make_config, tmp_path):
    with pytest.raises(MissingFileError, match=f"data folder '{tmp_path}/nowhere' does not exist"):
        GenRecDataset(make_config(name="nowhere"))


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no network"),
        TypeError("no length"),
        http.client.BadStatusLine("hello"),
    ],
)
def test_a_failed_download_is_one_sentence_and_leaves_nothing(
    make_config, tmp_path, monkeypatch, error
):
    def offline(url):
        raise error

    monkeypatch.setattr(files, "decide_download", offline)
    with pytest.raises(
        MissingFileError, match=f"ml-1m' does not exist and https.* cannot be downloaded .*{error}"
    ):
        GenRecDataset(make_config(name="ml-1m"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_is_one_sentence_and_leaves_nothing(make_config, tmp_path, monkeypatch):
    def half(url, folder):
        Path(folder, "ml-1m.zip").write_bytes(b"PK half of an archive")
        return f"{folder}/ml-1m.zip"

    monkeypatch.setattr(files, "decide_download", lambda url: True)
    monkeypatch.setattr(files, "download_url", half)
    with pytest.raises(MissingFileError, match=r"cannot be downloaded .*not a zip file"):
        GenRecDataset(make_config(name="ml-1m"))
    assert list(tmp_path.iterdir()) == []


def test_a_download_into_no_folder_is_one_sentence(make_config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError, match=r"cannot be downloaded .*File exists"):
        GenRecDataset(make_config(name="ml-1m", data_path=str(tmp_path / "file")))


def test_a_download_that_another_process_finishes_first_is_as_good(
    make_config, tmp_path, monkeypatch
):
    def overtaken(url):
        (tmp_path / "ml-1m").mkdir()
        (tmp_path / "ml-1m" / "ml-1m.inter").write_text(HEADER + "\na\tx\t1\na\ty\t2\n")
        raise OSError("Directory not empty")

    monkeypatch.setattr(files, "decide_download", overtaken)
    assert GenRecDataset(make_config(name="ml-1m")).item_num == 3
    assert [file.name for file in tmp_path.iterdir()] == ["ml-1m"]


def test_an_inter_file_in_another_encoding_is_one_sentence(make_config, tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "odd.inter").write_bytes(HEADER.encode() + b"\n\xfc\tx\t1\n\xfc\ty\t2\n")
    with pytest.raises(
        UserError, match=r"odd.inter' cannot be read .*utf-8.*: check how the file was written"
    ):
        GenRecDataset(make_config(name="odd"))


def test_a_download_needs_no_process_group(make_config, tmp_path, monkeypatch):
    def archive(url, folder):
        path = f"{folder}/ml-1m.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("ml-1m.inter", HEADER + "\na\tx\t1\na\ty\t2\n")
        return path

    monkeypatch.setattr(files, "decide_download", lambda url: True)
    monkeypatch.setattr(files, "download_url", archive)
    assert GenRecDataset(make_config(name="ml-1m")).item_num == 3
    assert [file.name for file in (tmp_path / "ml-1m").iterdir()] == ["ml-1m.inter"]
