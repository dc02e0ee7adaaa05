"""`--set NAME=VALUE`: names, types, and whose argument it is."""

import pytest

import registry
from registry.signatures import Argument
from zoo.cli.arguments import converted, for_dimension, is_preset, parts, settings


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        *[("bool", text, True) for text in ("True", "yes", "ON", "1", "true")],
        *[("bool", text, False) for text in ("False", "no", "Off", "0", "FALSE")],
        ("int", "12", 12),
        ("int", "1e5", 100_000),
        ("int", str(2**60 + 1), 2**60 + 1),
        ("float", "3", 3.0),
        ("float | None", "1e-3", 1e-3),
        ("float | None", "None", None),
        ("Optional[int]", "null", None),
        ("int | None", "none", None),
        ("str", "none", "none"),
        ("str", "3", "3"),
        ("str", '"mi"', "mi"),
        ("str | None", "None", None),
        ("Sequence[int]", "[1, 2]", [1, 2]),
        ("Sequence[float]", "(-1, 1.5)", [-1.0, 1.5]),
        ("Sequence[int] | None", "None", None),
        ("Sequence[Sequence[int | None]]", "[[1, null]]", [[1, None]]),
        ("Sequence[Stage | Mapping] | None", '[{"a": 1}]', [{"a": 1}]),
        ("'bool'", "off", False),
        ("", "4", 4),
        ("", "word", "word"),
    ],
)
def test_values_follow_the_annotation(annotation, text, value):
    found = converted(Argument("x", annotation), text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        ("bool", "2", "true or false"),
        ("bool", "None", "true or false"),
        ("bool", "", "true or false"),
        ("int", "2.5", "a whole number"),
        ("int", "many", "a whole number"),
        ("int", "true", "a whole number"),
        ("int", "inf", "a whole number"),
        ("int", "None", "a whole number"),
        ("int", "9" * 5000, "a whole number"),
        ("float", "nan", "a finite number"),
        ("float", "1e999", "a finite number"),
        ("float | None", "word", "a finite number or None"),
        ("Sequence[int]", "4", "a list such as"),
        ("Sequence[int]", "[1.5]", "a list such as"),
        ("Sequence[float]", "[NaN]", "a list such as"),
        ("Sequence[int]", "[true]", "a list such as"),
        ("Sequence[int]", "[" * 100_000, "a list such as"),
        ("", "NaN", "a value"),
    ],
)
def test_values_of_other_types_are_refused_by_name(annotation, text, expected):
    with pytest.raises(ValueError, match=f"--set: speed must be {expected}"):
        converted(Argument("speed", annotation), text)


def test_without_an_annotation_the_default_tells():
    assert converted(Argument("x", default="3"), "2.5") == 2.5
    assert converted(Argument("x", default="False"), "yes") is True
    assert converted(Argument("x", default="(1,)"), "[2]") == [2]
    with pytest.raises(ValueError, match="true or false"):
        converted(Argument("x", default="True"), "perhaps")


def test_unknown_names_come_with_close_ones_and_the_list():
    message = r"'widht'. Did you mean 'width'\? There are dims, encoding"
    with pytest.raises(ValueError, match=message):
        settings("igr", ["widht=3"])
    assert settings("igr", ["igr.width=3", "width=4"]) == {"width": 4}


def test_parts_and_presets(tmp_path, monkeypatch):
    assert parts("affine+dirvnet") == ["affine", "dirvnet"] and parts("affine") == ["affine"]
    assert is_preset("affine+dirvnet.brain2d") and not is_preset("affine+dirvnet")
    (tmp_path / "a+b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parts("a+b") == ["a+b"] and parts(f"{tmp_path}/a+b") == [f"{tmp_path}/a+b"]
    with pytest.raises(ValueError, match="lacks a method"):
        parts("affine+")


def test_settings_of_several_methods():
    name = "affine+dirvnet"
    given = settings(name, ["trim=0.5", "units=3", "dirvnet.levels=4", "Affine.levels=2"])
    assert given == {
        "affine.trim": 0.5,
        "dirvnet.units": 3,
        "dirvnet.levels": 4,
        "affine.levels": 2,
    }
    assert for_dimension(name, 2) == {"affine.dims": 2, "dirvnet.dims": 2}
    assert for_dimension("affine+dirvnet.brain2d", 2) == {"affine.dims": 2}
    assert for_dimension("affine", 3) == {"dims": 3} and for_dimension("igr.knot", 3) == {}
    for texts, reason in (
        (["levels=2"], "affine.levels= or dirvnet.levels="),
        (["divroc.points=2"], "'divroc' in 'divroc.points' is none of affine, dirvnet"),
        (["affine.units=2"], "'affine' has no argument 'units'"),
        (["nothing=2"], "'affine' and 'dirvnet' has no argument"),
    ):
        with pytest.raises(ValueError, match=reason):
            settings(name, texts)
    with pytest.raises(ValueError, match="is a preset, which has its configuration"):
        settings("affine+dirvnet.brain2d", ["dirvnet.brain2d.levels=2"])
    with pytest.raises(ValueError, match="a preset has its configuration"):
        settings("dirvnet.brain2d", ["levels=2"])


def test_arguments_that_are_not_known_are_passed_on():
    with registry.isolated():
        facts = {"task": "registration", "data": "points"}
        registry.add_method(registry.Entry("unread", "no_such_package.module:Class", **facts))
        assert settings("unread", ["flag=True", "count=3"]) == {"flag": True, "count": 3}
        assert for_dimension("unread", 3) == {"dims": 3}
        assert settings("affine+unread", ["count=3"]) == {"unread.count": 3}
