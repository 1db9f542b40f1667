from __future__ import annotations

import gzip
import json
import logging

import pytest

from recbole_genrec.errors import UserError
from recbole_genrec.prepare.amazon import TEXT_LIMIT, read_metadata, read_reviews

# One line each as the publishers' pages show them.
REVIEW_2014 = {
    "reviewerID": "A2SUAM1J3GNN3B",
    "asin": "0000013714",
    "reviewerName": "J. McDonald",
    "helpful": [2, 3],
    "reviewText": "I bought this for my husband who plays the piano.  He is having a wonderful",
    "overall": 5.0,
    "summary": "Heavenly Highway Hymns",
    "unixReviewTime": 1252800000,
    "reviewTime": "09 13, 2009",
}
REVIEW_2018 = {
    "overall": 5.0,
    "vote": "2",
    "verified": True,
    "reviewTime": "01 1, 2018",
    "reviewerID": "AUI6WTTT0QZYS",
    "asin": "5120053084",
    "style": {"Size:": "Large", "Color:": "Charcoal"},
    "reviewerName": "Abbey",
    "reviewText": "I now have 4 of the 5 available colors of this shirt... ",
    "summary": "Comfy, flattering, discreet--highly recommended!",
    "unixReviewTime": 1514764800,
}
METADATA_2014 = {
    "asin": "0000031852",
    "related": {"also_bought": ["B00JHONN1S", "B002BZX8Z6"], "also_viewed": ["B002BZX8Z6"]},
    "title": "Girls Ballet Tutu Zebra Hot Pink",
    "price": 3.17,
    "imUrl": "http://ecx.images-amazon.com/images/I/51fAmVkTbyL._SY300_.jpg",
    "salesRank": {"Toys & Games": 211836},
    "brand": "Coxlures",
    "categories": [["Sports & Outdoors", "Other Sports", "Dance"], ["Sports & Outdoors", "Girls"]],
    "description": 'It\'s a "tutu"',
}
METADATA_2018 = {
    "category": [
        "Musical Instruments",
        "Strings &amp; Parts",
        "Guitar",
        "</span></span></span>",
        "junk",
    ],
    "tech1": "",
    "description": ["First <b>part</b>.", "", "Second&nbsp;part &amp; more.<br/>End"],
    "fit": "",
    "title": "Electric <i>Guitar</i> Strings",
    "also_buy": ["B00005ML71"],
    "image": [],
    "tech2": "",
    "brand": "by\n    Ernie Ball",
    "feature": ["Made in USA"],
    "rank": ["> #1,000 in Musical Instruments"],
    "also_view": [],
    "main_cat": "Musical Instruments",
    "date": "",
    "price": "$5.49",
    "asin": "B0002E1G5C",
}
METADATA_2023 = {
    "main_category": "All Beauty",
    "title": "Howard LC0008 Leather Conditioner",
    "average_rating": 4.8,
    "rating_number": 10,
    "features": ["Cleans", "Conditions &amp; shines"],
    "description": ["For leather."],
    "price": None,
    "images": [
        {
            "hi_res": None,
            "thumb": "https://m.media-amazon.com/images/I/41qfjSfqNyL.jpg",
            "variant": "MAIN",
        }
    ],
    "videos": [],
    "store": "Howard Products",
    "categories": ["Beauty & Personal Care", "All Beauty", "Leather"],
    "details": {"Package Dimensions": "7.1 x 5.5 x 3 inches", "UPC": "617390882781"},
    "parent_asin": "B01CUPMQZE",
    "bought_together": None,
}


def written(path, lines, packed=True):
    content = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode(
        "utf-8", "surrogatepass"
    )
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def json_reviews(*rows):
    keys = ("reviewerID", "asin", "unixReviewTime", "overall")
    return [json.dumps({**REVIEW_2018, **dict(zip(keys, row))}) for row in rows]


def texts(tmp_path, release, *records, wanted=None):
    form = repr if release == "amazon-2014" else json.dumps
    key = "parent_asin" if release == "amazon-2023" else "asin"
    path = written(tmp_path / "meta.gz", [form(record) for record in records])
    return read_metadata(path, release, wanted or {record[key] for record in records}, False).texts


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "release, sample", [("amazon-2014", REVIEW_2014), ("amazon-2018", REVIEW_2018)]
)
def test_reviews_in_json_lines(tmp_path, release, sample, packed):
    lines = [
        json.dumps(sample),
        json.dumps({**sample, "reviewerID": "other", "overall": 2.0}),
        json.dumps({**sample, "asin": "x"}),
    ]
    found = read_reviews(written(tmp_path / "reviews", lines, packed), release, False)
    assert found.user_tokens == [sample["reviewerID"], "other"]
    assert found.item_tokens == [sample["asin"], "x"]
    assert (found.users.tolist(), found.items.tolist()) == ([0, 1, 0], [0, 0, 1])
    assert found.times.tolist() == [sample["unixReviewTime"]] * 3
    assert found.ratings.tolist() == [5.0, 2.0, 5.0]
    assert found.n_skipped == 0


@pytest.mark.parametrize("header", [["user_id,parent_asin,rating,timestamp"], []])
def test_reviews_in_csv_keep_milliseconds(tmp_path, header):
    lines = [
        *header,
        "AGKASBHYZPGTEPO6LWZPVJWB2BVA,B006GBITXC,3.0,1452647382000",
        "AGKA,B006GBITXC,4.0,1454675785001\r",
    ]
    found = read_reviews(written(tmp_path / "reviews.csv.gz", lines), "amazon-2023", False)
    assert found.user_tokens == ["AGKASBHYZPGTEPO6LWZPVJWB2BVA", "AGKA"]
    assert found.item_tokens == ["B006GBITXC"]
    assert found.times.tolist() == [1452647382000, 1454675785001]
    assert found.ratings.tolist() == [3.0, 4.0]
    assert found.n_skipped == 0


BROKEN_REVIEWS = [
    '{"reviewerID": "u", "asin": "i", "overall": 5.0, "unixRev',
    '{"reviewerID": "u", "asin": "i", "overall": 5.0}',
    '{"reviewerID": "u", "asin": "i", "overall": "five", "unixReviewTime": 1}',
    '{"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": null}',
    '{"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": -1}',
    '{"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": 1e400}',
    '{"reviewerID": "", "asin": "i", "overall": 5.0, "unixReviewTime": 1}',
    '{"reviewerID": "u", "asin": ["i"], "overall": 5.0, "unixReviewTime": 1}',
    "[1, 2]",
    "<html>",
    "\ud83d",
    "[" * 100_000,
]


@pytest.mark.parametrize("broken", BROKEN_REVIEWS)
def test_a_broken_review_is_skipped_counted_and_logged(tmp_path, caplog, broken):
    lines = json_reviews(*[(f"u{n}", "i", n, 1.0) for n in range(99)])
    lines[40:40] = [broken, "", "   "]
    with caplog.at_level(logging.WARNING):
        found = read_reviews(written(tmp_path / "reviews.json.gz", lines), "amazon-2018", False)
    assert found.n_skipped == 1
    assert found.times.tolist() == list(range(99))
    assert "skipped 1 of 100 lines, the first is line 41" in caplog.text


@pytest.mark.parametrize(
    "broken",
    [
        "a,b,5.0",
        "a,b,5.0,12,13",
        "a,b,5.0,12.5",
        ",b,5.0,12",
        "a,b,x,12",
        "a,b,5.0,99999999999999999999",
    ],
)
def test_a_broken_csv_line_is_skipped(tmp_path, broken):
    lines = [
        "user_id,parent_asin,rating,timestamp",
        *[f"u{n},i,5.0,{n}" for n in range(99)],
        broken,
    ]
    assert read_reviews(written(tmp_path / "r.csv.gz", lines), "amazon-2023", False).n_skipped == 1


def test_more_than_one_percent_of_broken_lines_is_an_error(tmp_path):
    good = json_reviews(*[("u", "i", n, 1.0) for n in range(198)])
    assert (
        read_reviews(written(tmp_path / "a", [*good, "{", "{"]), "amazon-2018", False).n_skipped
        == 2
    )
    with pytest.raises(
        UserError,
        match=r"3 of the 201 lines of .* cannot be read \(the first is line 199\).*1%.*delete the",
    ):
        read_reviews(written(tmp_path / "b", [*good, "{", "{", "{"]), "amazon-2018", False)
    with pytest.raises(UserError, match="2 of the 2 lines"):
        read_metadata(written(tmp_path / "c", ["<html>", "</html>"]), "amazon-2018", {"i"}, False)


@pytest.mark.parametrize("lines", [[], ["user_id,parent_asin,rating,timestamp"]])
def test_a_file_without_reviews_is_an_error(tmp_path, lines):
    with pytest.raises(UserError, match="holds no review"):
        read_reviews(written(tmp_path / "reviews.csv.gz", lines), "amazon-2023", False)


def test_a_cut_or_damaged_gzip_file_is_an_error(tmp_path):
    path = written(
        tmp_path / "reviews.json.gz", json_reviews(*[(f"u{n}", "i", n, 1.0) for n in range(500)])
    )
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:-9],
        whole[:middle],
        whole[:10] + b"\xff" * 20 + whole[30:],
        whole[:-8] + b"12345678",
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"reviews.json.gz' is cut off or damaged .*delete it"):
            read_reviews(path, "amazon-2018", False)


def test_metadata_of_2014(tmp_path):
    bare = {"asin": "B1", "categories": []}
    assert texts(tmp_path, "amazon-2014", METADATA_2014, bare) == {
        "0000031852": (
            "Girls Ballet Tutu Zebra Hot Pink",
            "Coxlures",
            "Sports & Outdoors, Other Sports, Dance, Girls",
            'It\'s a "tutu"',
        ),
        "B1": ("", "", "", ""),
    }


def test_metadata_of_2014_is_never_evaluated(tmp_path):
    flag = tmp_path / "flag"
    lines = [repr({**METADATA_2014, "asin": f"B{n}"}) for n in range(99)]
    lines.append(f"{{'asin': 'evil', 'title': open({str(flag)!r}, 'w').write('x')}}")
    wanted = {*(f"B{n}" for n in range(99)), "evil"}
    found = read_metadata(written(tmp_path / "meta.json.gz", lines), "amazon-2014", wanted, False)
    assert found.n_skipped == 1
    assert "evil" not in found.texts and len(found.texts) == 99
    assert not flag.exists()


def test_metadata_of_2018(tmp_path):
    scraped = {
        **METADATA_2018,
        "asin": "B1",
        "title": "var aPageStart = (new Date()).getTime();\nvar x",
        "description": "",
        "brand": "",
    }
    odd = {
        "asin": "B2",
        "title": None,
        "brand": 7,
        "category": "Guitars",
        "description": {"a": ["deep", None]},
    }
    assert texts(tmp_path, "amazon-2018", METADATA_2018, scraped, odd) == {
        "B0002E1G5C": (
            "Electric Guitar Strings",
            "Ernie Ball",
            "Musical Instruments, Strings & Parts, Guitar",
            "First part . Second part & more. End",
        ),
        "B1": ("", "", "Musical Instruments, Strings & Parts, Guitar", ""),
        "B2": ("", "7", "Guitars", "deep"),
    }


def test_metadata_of_2023(tmp_path):
    bare = {
        "parent_asin": "B1",
        "title": None,
        "store": None,
        "main_category": None,
        "categories": [],
        "features": [],
        "description": [],
    }
    assert texts(tmp_path, "amazon-2023", METADATA_2023, bare) == {
        "B01CUPMQZE": (
            "Howard LC0008 Leather Conditioner",
            "Howard Products",
            "All Beauty, Beauty & Personal Care, Leather",
            "Cleans Conditions & shines For leather.",
        ),
        "B1": ("", "", "", ""),
    }


@pytest.mark.parametrize(
    "raw, clean",
    [
        ("Caf&eacute; &#39;x&#39; &lt;b&gt;bold&lt;/b&gt;", "Caf\u00e9 'x' bold"),
        ("a<br>b<p class='x'>c</p>", "a b c"),
        ("2 < 3 and 5 > 4, I <3 it", "2 < 3 and 5 > 4, I <3 it"),
        ("<script>var a = '<b>';</script>text<style>p {}</style><!-- note -->", "text"),
        ("kept<script>never closed", "kept"),
        (" tab\t line\n \u00a0 wide\u3000", "tab line wide"),
        ("x" * (TEXT_LIMIT - 1) + " y", "x" * (TEXT_LIMIT - 1)),
        ("x" * 10_000_000, "x" * TEXT_LIMIT),
        ("<" * 10_000_000, "<" * TEXT_LIMIT),
        ("<b" * 5_000_000, "<b" * (TEXT_LIMIT // 2)),
        ("<script>" * 1_000_000 + "x", ""),
        ("<b>" * 3_000_000 + "x", "x"),
    ],
    ids=lambda text: text[:12],
)
def test_text_is_cleaned_and_cut(tmp_path, raw, clean):
    assert texts(tmp_path, "amazon-2023", {"parent_asin": "B1", "title": raw}) == {
        "B1": (clean, "", "", "")
    }


def test_a_long_list_of_categories_is_cut_too(tmp_path):
    record = {"asin": "B1", "categories": [[f"category {n:04d}" for n in range(1000)]]}
    assert len(texts(tmp_path, "amazon-2014", record)["B1"][2]) == TEXT_LIMIT


@pytest.mark.parametrize(
    "release, key",
    [("amazon-2014", "asin"), ("amazon-2018", "asin"), ("amazon-2023", "parent_asin")],
)
def test_only_wanted_items_and_of_each_the_first_record(tmp_path, release, key):
    records = [
        {key: "B1", "title": "first"},
        {key: "B2", "title": "unwanted"},
        {key: "B1", "title": "second"},
    ]
    assert texts(tmp_path, release, *records, wanted={"B1", "B3"}) == {"B1": ("first", "", "", "")}


def test_an_item_whose_text_names_another_item_in_the_same_form_is_found(tmp_path):
    record = {"title": "see 'asin': 'B9' here", "asin": "B1"}
    assert texts(tmp_path, "amazon-2014", record) == {"B1": ("see 'asin': 'B9' here", "", "", "")}
    assert texts(tmp_path, "amazon-2014", record, wanted={"B9"}) == {}


def test_a_broken_line_of_metadata_is_skipped(tmp_path, caplog):
    lines = [json.dumps({"asin": f"B{n}", "title": "t"}) for n in range(199)]
    wanted = {f"B{n}" for n in range(199)}
    with caplog.at_level(logging.WARNING):
        path = written(tmp_path / "meta.json.gz", ["[]", *lines, '{"title": "without a key"}'])
        found = read_metadata(path, "amazon-2018", wanted, False)
    assert (len(found.texts), found.n_skipped) == (199, 2)
    assert "skipped 2 of 201 lines, the first is line 1" in caplog.text
