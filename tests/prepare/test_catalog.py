from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import yaml

from recbole_genrec.config.reading import properties_folder
from recbole_genrec.prepare import catalog
from recbole_genrec.prepare.catalog import RawFile, dump_names, find_dump, suggest_dump

SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
LAB = "https://mcauleylab.ucsd.edu/public_datasets/data"


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.delenv("RECBOLE_GENREC_MIRROR", raising=False)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """One release with one data set, the checksum of its reviews known."""
    release = {
        "suffix": "-1999",
        "page": "https://example.org/",
        "citation": "Nobody, 1999",
        "terms": "None.",
        "reviews": {
            "file": "{category}.csv.gz",
            "folders": ["https://example.org/a", "https://example.org/b"],
        },
        "metadata": {"file": "meta_{category}.gz", "folders": ["https://example.org/c"]},
        "categories": {"drums": "All_Drums"},
        "counts": {},
        "sha256": {"All_Drums.csv.gz": "ab" * 32},
    }
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"amazon-1999": release}))
    monkeypatch.setattr(catalog, "properties_folder", lambda: tmp_path)


def test_a_dump_has_its_two_files_with_every_address_and_the_known_checksum(sources):
    dump = find_dump("amazon-drums-1999", None)
    addresses = ("https://example.org/a/All_Drums.csv.gz", "https://example.org/b/All_Drums.csv.gz")
    assert dump.reviews == RawFile("All_Drums.csv.gz", addresses, "ab" * 32)
    assert dump.metadata == RawFile(
        "meta_All_Drums.gz", ("https://example.org/c/meta_All_Drums.gz",), None
    )
    assert (dump.name, dump.format, dump.category, dump.counts) == (
        "amazon-drums-1999",
        "amazon-1999",
        "All_Drums",
        None,
    )
    assert (dump.page, dump.citation, dump.terms) == (
        "https://example.org/",
        "Nobody, 1999",
        "None.",
    )
    assert dump_names() == ["amazon-drums-1999"]


@pytest.mark.parametrize(
    ("mirror", "first"),
    [
        (
            "https://mirror.example/data/",
            "https://mirror.example/data/amazon-1999/All_Drums.csv.gz",
        ),
        ("file:///data", "file:///data/amazon-1999/All_Drums.csv.gz"),
    ],
)
def test_a_mirror_comes_before_the_known_addresses(sources, mirror, first):
    assert find_dump("amazon-drums-1999", mirror).reviews.urls[:2] == (
        first,
        "https://example.org/a/All_Drums.csv.gz",
    )


def test_a_mirror_may_be_a_folder(sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mirror in (str(tmp_path / "my dumps"), "my dumps"):
        address = urlsplit(find_dump("amazon-drums-1999", mirror).metadata.urls[0])
        assert (address.scheme, address.path) == (
            "file",
            f"{tmp_path.as_posix()}/my%20dumps/amazon-1999/meta_All_Drums.gz",
        )


def test_the_environment_names_a_mirror_unless_one_is_given(sources, monkeypatch):
    monkeypatch.setenv("RECBOLE_GENREC_MIRROR", "https://environment.example")
    assert (
        find_dump("amazon-drums-1999", None)
        .reviews.urls[0]
        .startswith("https://environment.example/amazon-1999/")
    )
    given = find_dump("amazon-drums-1999", "https://given.example").reviews.urls
    assert given[0].startswith("https://given.example/")
    assert not any("environment" in address for address in given)


@pytest.mark.parametrize(
    ("name", "reviews", "metadata"),
    [
        (
            "amazon-beauty-2014",
            f"{SNAP}/reviews_Beauty_5.json.gz",
            f"{SNAP}/meta_Beauty.json.gz",
        ),
        (
            "amazon-instruments-2018",
            f"{LAB}/amazon_v2/categoryFilesSmall/Musical_Instruments_5.json.gz",
            f"{LAB}/amazon_v2/metaFiles2/meta_Musical_Instruments.json.gz",
        ),
        (
            "amazon-scientific",
            f"{LAB}/amazon_2023/benchmark/5core/rating_only/Industrial_and_Scientific.csv.gz",
            f"{LAB}/amazon_2023/raw/meta_categories/meta_Industrial_and_Scientific.jsonl.gz",
        ),
    ],
)
def test_the_addresses_are_those_of_the_publishers(name, reviews, metadata):
    dump = find_dump(name, None)
    assert (dump.reviews.urls[0], dump.metadata.urls[0]) == (reviews, metadata)


@pytest.mark.parametrize(
    ("name", "category", "counts"),
    [
        ("amazon-beauty", "Beauty_and_Personal_Care", (729576, 207649, 6624441)),
        ("amazon-beauty-2018", "Luxury_Beauty", None),
        ("amazon-beauty-2014", "Beauty", (22363, 12101, 198502)),
        ("amazon-instruments", "Musical_Instruments", (57439, 24587, 511836)),
        ("amazon-instruments-2018", "Musical_Instruments", (24772, 9922, 206153)),
        ("amazon-games", "Video_Games", (94762, 25612, 814586)),
        ("amazon-pet-2014", "Pet_Supplies", (19856, 8510, 157836)),
    ],
)
def test_names_and_published_counts(name, category, counts):
    dump = find_dump(name, None)
    assert (dump.category, dump.counts) == (category, counts)


def test_every_name_is_found_and_leads_to_files_of_its_own():
    dumps = [find_dump(name, None) for name in dump_names()]
    assert [dump.name for dump in dumps] == dump_names()
    addresses = [
        address for dump in dumps for file in (dump.reviews, dump.metadata) for address in file.urls
    ]
    assert len(set(addresses)) == len(addresses)
    assert {dump.format for dump in dumps} == {"amazon-2014", "amazon-2018", "amazon-2023"}
    for dump in dumps:
        assert all(
            address.startswith("https://") and address.endswith(f"/{dump.reviews.name}")
            for address in dump.reviews.urls
        )


def test_counts_and_checksums_are_of_known_data_sets():
    content = yaml.safe_load((properties_folder() / "sources.yaml").read_text(encoding="utf-8"))
    for source in content.values():
        assert set(source["counts"]) <= set(source["categories"])
        assert all(
            len(counts) == 3 and counts[2] > counts[0] for counts in source["counts"].values()
        )
        assert all(len(digest) == 64 for digest in source["sha256"].values())


def test_an_unknown_name_is_no_dump():
    assert find_dump("ml-100k", None) is None
    assert find_dump("amazon-beauty-2023", None) is None
    assert suggest_dump("ml-100k") == ""


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("amazon-insturments", "amazon-instruments"),
        ("Amazon-Beauty-2018", "amazon-beauty-2018"),
        ("amazon-beauty-2023", "amazon-beauty"),
    ],
)
def test_a_name_like_a_known_one_gets_a_suggestion(name, meant):
    assert suggest_dump(name) == f" (did you mean '{meant}'?)"
