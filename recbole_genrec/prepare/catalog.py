"""Public dumps known by name: their files and addresses, as properties/sources.yaml lists them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recbole_genrec.config.reading import nearest, properties_folder

MIRROR_VARIABLE = "RECBOLE_GENREC_MIRROR"


class RawFile(NamedTuple):
    """One file of a dump.

    Attributes:
        name: file name on disk. Files of different releases may share a name, so each release needs
            its own folder.
        urls: addresses to try, in this order.
        sha256: hexadecimal checksum of the whole file; None if unknown.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None


class Dump(NamedTuple):
    """One public data set.

    Attributes:
        name: such as amazon-beauty-2014.
        format: its release, which fixes the file format: amazon-2014, amazon-2018 or amazon-2023.
        category: the publisher's name of it, such as Sports_and_Outdoors.
        reviews: file of users, items, ratings and times.
        metadata: file of titles, brands, categories and descriptions of items.
        counts: published numbers of users, items and interactions; None if there are none.
        page: address of the publisher's page.
        citation: reference to cite.
        terms: one sentence about the terms of use.
    """

    name: str
    format: str
    category: str
    reviews: RawFile
    metadata: RawFile
    counts: tuple[int, int, int] | None
    page: str
    citation: str
    terms: str


def find_dump(name: str, mirror: str | None) -> Dump | None:
    """Return the dump of this name, or None if there is none.

    Args:
        name: amazon-<short name> for the release of 2023, amazon-<short name>-2018 or
            amazon-<short name>-2014.
        mirror: an address (http://, https://, file://) or a folder that is tried before the known
            addresses; None: the environment variable RECBOLE_GENREC_MIRROR. Its layout is
            <mirror>/<release>/<file name>, for example
            <mirror>/amazon-2014/reviews_Beauty_5.json.gz, because files of different releases may
            share a name.
    """
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    for release, source in _sources().items():
        for short, category in source["categories"].items():
            if _dump_name(short, source) != name:
                continue
            counts = source["counts"].get(short)
            folder = _mirror_folder(mirror, release)
            return Dump(
                name=name,
                format=release,
                category=category,
                reviews=_raw_file(source, "reviews", category, folder),
                metadata=_raw_file(source, "metadata", category, folder),
                counts=None if counts is None else tuple(counts),
                page=source["page"],
                citation=source["citation"],
                terms=source["terms"],
            )
    return None


def dump_names() -> list[str]:
    """Return all names of dumps, newest release first, alphabetically within a release."""
    return [
        _dump_name(short, source)
        for source in _sources().values()
        for short in sorted(source["categories"])
    ]


def suggest_dump(name: str) -> str:
    """Return " (did you mean ...?)" with the most similar dump name, or "" if none is similar."""
    # Names of the newest release have no year, so one with that year would look like a name of
    # another release.
    return nearest(name[: -len("-2023")] if name.endswith("-2023") else name, dump_names())


def _sources() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((properties_folder() / "sources.yaml").read_text(encoding="utf-8"))


def _dump_name(short: str, source: dict[str, Any]) -> str:
    return f"amazon-{short}{source['suffix']}"


def _mirror_folder(mirror: str | None, release: str) -> list[str]:
    if not mirror:
        return []
    base = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
    return [f"{base.rstrip('/')}/{release}"]


def _raw_file(source: dict[str, Any], kind: str, category: str, mirror: list[str]) -> RawFile:
    name = source[kind]["file"].format(category=category)
    return RawFile(
        name,
        tuple(f"{folder}/{name}" for folder in [*mirror, *source[kind]["folders"]]),
        source["sha256"].get(name),
    )
