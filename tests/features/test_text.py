import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import UserError
from recbole_genrec.features.text import item_file, item_sentences, text_fields, tfidf_features

ITEMS = (
    "item_id:token\tbrand_id:token\ttitle:token_seq\tyear:token\tprice:float\n"
    'z\t7\t"Red  guitar\t1999\t3.5\n'
    "extra\t8\tUnsold flute\t2001\t1\n"
    "x\t7\tBlue guitar strings\t\t2\n"
    "y\t9\t\t\t2\n"
    "x\t7\tsecond line of x\t2000\t2\n"
    "w\t9\tblue drum\t1999\t2\n"
)


@pytest.fixture
def make_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def make(items=ITEMS, name="toy", tokens="xyzwv", **settings):
        base = {
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
        }
        base.update(
            {"MAX_ITEM_LIST_LENGTH": 3, "text_fields": None, "text_template": None, "text_dim": 128}
        )
        base["text_min_df"] = 1
        if name == "toy":
            (tmp_path / name).mkdir(exist_ok=True)
            lines = [f"a\t{token}\t{step}" for step, token in enumerate(tokens)]
            (tmp_path / name / "toy.inter").write_text(
                "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
            )
            (tmp_path / name / "toy.item").unlink(missing_ok=True)
            if items is not None:
                (tmp_path / name / "toy.item").write_text(items)
            base["data_path"] = str(tmp_path)
        config = Config(model="SASRec", dataset=name, config_dict={**base, **settings})
        return config, GenRecDataset(config)

    return make


def test_sentences_are_joined_by_item_token_and_counted(make_dataset, caplog):
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        sentences = item_sentences(*make_dataset())
    # Internal ids follow the interactions: x, y, z, w, v; y has no words and v no line.
    assert sentences == ["", "Blue guitar strings", "", '"Red guitar 1999', "blue drum 1999", ""]
    repeated, counts = caplog.messages
    assert repeated.endswith("toy.item' that repeat an item token: 1; an item's first line counts")
    assert (
        counts == "Item text from title + year: items 5, without text 2, not in the .item file 1, "
        "only in the .item file 1"
    )


def test_short_lines_lack_their_last_fields(make_dataset):
    items = "item_id:token\ttitle:token_seq\tbrand:token\nx\tdrum\ny\thorn\tAcme\n"
    assert item_sentences(*make_dataset(items=items))[1:3] == ["drum", "horn Acme"]


CATALOGUE = (
    "item_id:token\ttitle:token_seq\tbrand:token\tprice:float\tdescription:token_seq\n"
    "x\tRed  drum\tAcme\t3.50\tLoud. \n"
    "y\t \tAcme\t2\tQuiet.\n"
    "z\tHorn\t\t\t\n"
    "w\t\t\t\tNo name.\n"
    "v\t\t\t\t\n"
)
FILLED = {
    "Title: {title}. Brand: {brand}. {description}": [
        "Title: Red drum. Brand: Acme. Loud.",
        "Brand: Acme. Quiet.",
        "Title: Horn",
        "No name.",
        "",
    ],
    "{title} ({brand}), {price} dollars.": [
        "Red drum (Acme), 3.50 dollars.",
        "(Acme), 2 dollars.",
        "Horn",
        "",
        "",
    ],
    "- {title}: {brand}": ["- Red drum: Acme", "Acme", "- Horn", "", ""],
    "passage: \n {description}": ["passage: Loud.", "passage: Quiet.", "", "passage: No name.", ""],
    "{{{title}}} by {brand} - {title}": [
        "{Red drum} by Acme - Red drum",
        "by Acme",
        "{Horn} - Horn",
        "",
        "",
    ],
    "By {brand}: {description} (end)": [
        "By Acme: Loud. (end)",
        "By Acme: Quiet. (end)",
        "",
        "No name. (end)",
        "",
    ],
}


@pytest.mark.parametrize("template", FILLED)
def test_a_template_loses_what_belongs_to_missing_fields(make_dataset, template):
    assert item_sentences(*make_dataset(items=CATALOGUE, text_template=template)) == [
        "",
        *FILLED[template],
    ]


def test_a_template_names_the_text_fields(make_dataset):
    assert text_fields(*make_dataset(items=CATALOGUE, text_template="{price} {title} {price}")) == [
        "price",
        "title",
    ]


def test_a_template_without_words_of_its_own_gives_the_same_tfidf(make_dataset):
    joined = tfidf_features(
        *make_dataset(items=CATALOGUE, text_fields=["title", "brand", "description"])
    )
    assert torch.equal(
        tfidf_features(
            *make_dataset(items=CATALOGUE, text_template="{title}. {brand}: {description}")
        ),
        joined,
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{title} {colour}",
            r"text_template names \['colour'\], but .* has only \['item_id', 'title', 'brand'",
        ),
        ("{title} {}", r"text_template names \[''\]"),
        ("{title", "cannot be read"),
        ("title}", "cannot be read"),
        ("just text", "needs a field in braces"),
        ("{price:.2f}", "only a name in braces: write {price}"),
        ("{title!r}", "only a name in braces: write {title}"),
        ({"title": None}, "has to be text with fields in braces: put it in quotes"),
    ],
)
def test_unusable_templates_are_named(make_dataset, template, message):
    with pytest.raises(UserError, match=message):
        item_sentences(*make_dataset(items=CATALOGUE, text_template=template))


def test_a_template_and_fields_contradict_each_other(make_dataset):
    with pytest.raises(UserError, match="set one of the two to none"):
        text_fields(*make_dataset(items=CATALOGUE, text_template="{title}", text_fields=["title"]))
    with pytest.raises(UserError, match=r"text_template is '\{title\}', but there is no file"):
        text_fields(*make_dataset(items=None, text_template="{title}"))


def test_text_fields_choose_and_order(make_dataset):
    assert text_fields(*make_dataset()) == ["title", "year"]
    assert item_sentences(*make_dataset(text_fields=["year", "title"]))[3] == '1999 "Red guitar'
    assert text_fields(*make_dataset(text_fields="year")) == ["year"]
    assert text_fields(*make_dataset(items=None)) == []
    assert text_fields(*make_dataset(items="item_id:token\tyear:token\nx\t1999\n")) == []


def test_the_packaged_movies_have_titles_and_genres(make_dataset):
    config, dataset = make_dataset(name="ml-100k")
    assert text_fields(config, dataset) == ["movie_title", "release_year", "class"]
    sentence = item_sentences(config, dataset)[dataset.token2id("item_id", "1")]
    assert sentence == "Toy Story 1995 Animation Children's Comedy"


def test_tfidf_keeps_the_inner_products_of_all_components(make_dataset):
    features = tfidf_features(*make_dataset())
    assert features.shape == (6, 5)
    weights = (
        TfidfVectorizer(sublinear_tf=True)
        .fit_transform(item_sentences(*make_dataset())[1:])
        .toarray()
    )
    np.testing.assert_allclose(
        (features[1:] @ features[1:].T).numpy(), weights @ weights.T, atol=1e-6
    )
    assert not features[[0, 2, 5]].any()


def test_tfidf_is_the_best_approximation_of_its_width(make_dataset):
    config, dataset = make_dataset(name="ml-100k", text_dim=16)
    features = tfidf_features(config, dataset)
    assert features.shape == (1683, 16)
    weights = (
        TfidfVectorizer(sublinear_tf=True)
        .fit_transform(item_sentences(config, dataset)[1:])
        .toarray()
    )
    exact = np.linalg.svd(weights, compute_uv=False)[:16]
    np.testing.assert_allclose(torch.linalg.svdvals(features).numpy(), exact, rtol=1e-2)
    state = np.random.get_state()[1].copy()
    assert torch.equal(features, tfidf_features(config, dataset))
    assert (np.random.get_state()[1] == state).all()


def test_a_single_word_is_a_feature(make_dataset):
    features = tfidf_features(
        *make_dataset(items="item_id:token\ttitle:token_seq\nx\tdrum\nz\tdrum\n")
    )
    assert features.tolist() == [[0], [1], [0], [1], [0], [0]]


@pytest.mark.parametrize(("min_df", "words"), [(1, 5), (2, 2), (3, 1)])
def test_words_of_few_items_are_left_out(make_dataset, caplog, min_df, words):
    """drum occurs in three items, red in two, and flute twice, but in one item."""
    titles = {"x": "red drum", "y": "drum", "z": "flute flute", "w": "small red drum", "v": "horn"}
    items = "\n".join(["item_id:token\ttitle:token_seq", *map("\t".join, titles.items())])
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        features = tfidf_features(*make_dataset(items=items, text_min_df=min_df))
    left = {1: titles, 2: {"x": "red drum", "y": "drum", "w": "red drum"}}
    left[3] = {"x": "drum", "y": "drum", "w": "drum"}
    kept = [left[min_df].get(token, "") for token in "xyzwv"]
    weights = TfidfVectorizer(sublinear_tf=True).fit_transform(kept).toarray()
    assert weights.shape[1] == words
    np.testing.assert_allclose(
        (features[1:] @ features[1:].T).numpy(), weights @ weights.T, atol=1e-6
    )
    assert caplog.messages[-1] == f"TF-IDF: words {words}, items without a word {kept.count('')}"


@pytest.mark.parametrize("min_df", [2, 9])
def test_no_word_is_left_is_one_sentence(make_dataset, min_df):
    items = "item_id:token\ttitle:token_seq\nx\tdrum\ny\thorn horn\n"
    with pytest.raises(UserError, match=rf"text_min_df \({min_df}\) or more items have: lower"):
        tfidf_features(*make_dataset(items=items, text_min_df=min_df))


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        (None, {}, "has no text field in .*toy.item"),
        (None, {"text_fields": ["title"]}, "no file .*toy.item"),
        (
            ITEMS,
            {"text_fields": ["name"]},
            r"text_fields names \['name'\], but .* has only \['item_id', 'brand_id', 'title'",
        ),
        ("item_id:token\ttitle:token_seq\nq\tdrum\n", {}, "none of the 5 items of 'toy' has text"),
        ("item_id:token\ttitle:token_seq\nx\t! ?\n", {}, "no word of two or more letters"),
        ("item_id\ttitle\nx\tdrum\n", {}, "needs columns named 'name:type'"),
        (
            "item_id:token\ttitle:token_seq\ttitle:token\nx\tdrum\thorn\n",
            {},
            "'name:type', each once",
        ),
        (
            "asin:token\ttitle:token_seq\nx\tdrum\n",
            {},
            "has the columns .'asin', 'title'. and lacks 'item_id'",
        ),
        (ITEMS, {"text_dim": 0}, "text_dim is 0"),
    ],
)
def test_unusable_text_is_named(make_dataset, items, settings, message):
    with pytest.raises(UserError, match=message):
        tfidf_features(*make_dataset(items=items, **settings))


def test_an_item_file_in_another_encoding_is_one_sentence(make_dataset):
    config, dataset = make_dataset(items=CATALOGUE)
    Path(item_file(dataset)).write_bytes(CATALOGUE.replace("Red", "R\u00fcd").encode("latin-1"))
    with pytest.raises(UserError, match=r"\.item' cannot be read as a table .*utf-8"):
        item_sentences(config, dataset)
