"""The public dumps that are known by name: which files they are made of and where those are found (properties/sources.yaml)."""

from __future__ import annotations

from typing import NamedTuple


class RawFile(NamedTuple):
    """One file of a dump.

    Attributes:
        name: file name on disk.
        urls: addresses that hold it, to be tried in this order.
        sha256: hexadecimal checksum of the whole file; None if it is not known.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None


class Dump(NamedTuple):
    """One public data set.

    Attributes:
        name: such as amazon-beauty-2014.
        format: amazon-2014, amazon-2018 or amazon-2023.
        category: the publisher's name of it, such as Sports_and_Outdoors.
        reviews: who took what and when.
        metadata: titles, brands, categories and descriptions of items.
        counts: published numbers of users, items and interactions; None if there are none.
        page: the publisher's page.
        citation: what to cite.
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
    """The dump of this name, or None if there is none."""
    raise NotImplementedError


def dump_names() -> list[str]:
    """The names of all known dumps."""
    raise NotImplementedError
