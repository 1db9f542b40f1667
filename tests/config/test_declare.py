from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from recbole_genrec.config.declare import (
    Declarations,
    declared,
    either,
    flag,
    list_of,
    mapping,
    number,
    one_of,
    optional,
    text,
    whole,
)
from recbole_genrec.errors import UserError

SIZES = list_of(whole(min=1), example="[2, 3]")


@pytest.mark.parametrize(
    ("rule", "value", "plain"),
    [
        (whole(), -3, -3),
        (whole(min=3), np.int64(3), 3),
        (whole(max=3), 3.0, 3),
        (whole(), np.float32(3), 3),
        (whole(), np.array(3), 3),
        (number(), 2, 2),
        (number(min=0), 0, 0),
        (number(above=0, below=1), np.float64(0.5), 0.5),
        (one_of("a", "b"), "b", "b"),
        (one_of("a", "none"), None, "none"),
        (flag(), np.bool_(True), True),
        (flag(), 0, False),
        (text(), Path("saved") / "x", "saved/x"),
        (text(), 2018, "2018"),
        (mapping(), {"a": 1}, {"a": 1}),
        (SIZES, (1, np.int32(2)), [1, 2]),
        (SIZES, np.array([1.0, 2.0]), [1, 2]),
        (list_of(number(), "[]", min_length=0), [], []),
        (optional(whole(min=1)), None, None),
        (optional(whole(min=1)), 1, 1),
        (either(text(), mapping()), "auto", "auto"),
        (either(text(), mapping()), {"a": "b"}, {"a": "b"}),
    ],
)
def test_an_accepted_value_is_returned_as_a_plain_one(rule, value, plain):
    found = rule.check("setting", value)
    assert found == plain
    assert type(found) is type(plain)
    assert not isinstance(found, list) or [type(item) for item in found] == [int] * len(found)


@pytest.mark.parametrize(
    ("rule", "value", "sentence"),
    [
        (whole(), True, "s is True, but has to be a whole number: give one, as in --s=1"),
        (whole(min=0), -1, "s is -1, but has to be a whole number of at least 0: give one"),
        (whole(min=2), 2.5, "s is 2.5, but .* at least 2: give one, as in --s=2"),
        (whole(max=4), 5, "s is 5, but has to be a whole number of at most 4"),
        (whole(), "3", "s is '3', but"),
        (whole(), None, "s is None, but"),
        (whole(), np.array([3, 4]), "but has to be a whole number"),
        (number(min=0), -0.1, "s is -0.1, but has to be a number of at least 0: give one"),
        (number(above=0), 0, "s is 0, but has to be a number above 0"),
        (number(min=0, below=1), 1.0, "s is 1.0, but .* a number of at least 0 and below 1"),
        (number(), float("inf"), "s is inf, but has to be a number"),
        (number(), float("nan"), "s is nan, but has to be a number"),
        (number(), False, "s is False, but has to be a number"),
        (one_of("a", "b"), "c", "s is 'c', but has to be one of a, b: choose one"),
        (one_of("a", "b"), None, "s is None, but has to be one of a, b"),
        (one_of("a", "b"), ["a"], r"s is \['a'\], but has to be one of a, b"),
        (flag(), "yes", "s is 'yes', but has to be True or False: choose one"),
        (flag(), 2, "s is 2, but"),
        (text(), 1.5, "s is 1.5, but has to be text"),
        (text(), False, "s is False, but has to be text"),
        (mapping(), [1], r"s is \[1\], but has to be a mapping: write {name: value}"),
        (SIZES, [], r"s is \[\], but has to be a list of whole numbers of at least 1: write for"),
        (SIZES, [1, 0], r"s is \[1, 0\], but .*: write for example \[2, 3\]"),
        (SIZES, 5, "s is 5, but has to be a list of"),
        (list_of(number(), "[1, 2]", length=2), [1], "a list of 2 numbers: write for example"),
        (optional(flag()), "x", "s is 'x', but has to be True or False, or none: choose one"),
        (either(text(), mapping()), [], r"s is \[\], but has to be text or a mapping: give --s="),
    ],
)
def test_any_other_value_is_refused_with_value_rule_and_way_out(rule, value, sentence):
    with pytest.raises(UserError, match=sentence):
        rule.check("s", value)


def test_a_class_inherits_declarations_and_may_replace_them():
    class Base:
        settings: ClassVar[Declarations] = {"width": whole(min=1), "kind": one_of("a")}

    class Plain(Base):
        pass

    class Derived(Plain):
        settings: ClassVar[Declarations] = {"kind": one_of("a", "b"), "rate": number()}

    assert declared(Plain) == Base.settings
    assert set(declared(Derived)) == {"width", "kind", "rate"}
    assert declared(Derived)["kind"].check("kind", "b") == "b"
    assert declared(object) == {}
