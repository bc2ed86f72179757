"""YAML with positions: YAML 1.2's words, and every fault as one sentence."""

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxrdist.config.document import dump_document, parse_document, parse_value
from cxrdist.errors import UserError

YAML_TEXT = st.text(alphabet="ab01 :-[]{},&*!?|>#'\"%@\n\t~.<=", max_size=60)


def only_a_user_error(function, *arguments):
    try:
        function(*arguments)
    except UserError as error:
        assert str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("010", 10),
        ("-7", -7),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2020-07-20", "2020-07-20"),
        ("0x10", "0x10"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'010'", "010"),
        ("[1, off]", [1, "off"]),
        ("!!int 5", 5),
    ],
)
def test_words_and_numbers_are_those_of_yaml_1_2(text, value):
    read = parse_document(f"key: {text}", "s.yaml").data["key"]
    assert read == value
    assert type(read) is type(value)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12))
@example("1e-3")
@example("010")
@example("off")
@example("~")
@example("0o7")
@example(".5")
def test_what_is_written_is_read_back_as_the_same(text):
    data = {"name": text, "list": [text, 1, 1e-7, 1e22, True, None, {"key": text}], "more": {text or "x": 0.1}}
    assert parse_document(dump_document(data), "s.yaml").data == data
    assert yaml.safe_load(dump_document(data)) == data


def test_every_key_and_item_knows_its_line():
    document = parse_document("a: 1\nb:\n  c:\n    - x\n    - y\n", "s.yaml")
    assert document.where(("a",)) == "s.yaml:1"
    assert document.where(("b", "c")) == "s.yaml:3"
    assert document.where(("b", "c", 1)) == "s.yaml:5"
    assert document.where(("b", "absent", "deeper")) == "s.yaml:2"
    assert document.where(("absent",)) == "s.yaml"


def test_a_key_that_stands_twice_is_refused_with_both_lines():
    with pytest.raises(UserError, match=r"^s\.yaml:4: key 'x' stands here and in line 2; keep one of them\.$"):
        parse_document("a:\n  x: 1\n  y: 2\n  x: 3\n", "s.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "s.yaml:1: this is not YAML: mapping values are not allowed here."),
        ("a: 1\n\tb: 2", "s.yaml:2: this is not YAML: found character '\\t' that cannot start any token."),
        ("a: 1\n---\nb: 2", "s.yaml:2: this is not YAML: but found another document."),
        ("a: *b", "s.yaml:1: this is not YAML: found undefined alias 'b'."),
        ("\0", "s.yaml: this is not YAML: unacceptable character #x0000: special characters are not allowed."),
        ("- a", "s.yaml: a study file is a mapping of keys to values; see `cxrdist schema`."),
        ("", "s.yaml: a study file is a mapping of keys to values; see `cxrdist schema`."),
        ("a: 1\n5: x", "s.yaml:2: a key must be a word."),
        ("a: 1\n? [b]\n: x", "s.yaml:2: a key must be a word."),
        ("a: !!timestamp x", "s.yaml:1: a study file has plain values, without the tag '!!timestamp'."),
        ("a:\n- !!bool x", "s.yaml:2: a study file has plain values, without the tag '!!bool'."),
        ("a: " + "1" * 5000, "s.yaml:1: this is not YAML: too long a number."),
        ("a: " + "[" * 600, "s.yaml: this is nested too deep for a study file."),
    ],
    ids=lambda value: value[:25].encode("unicode_escape").decode(),
)
def test_what_is_no_mapping_of_plain_values_is_refused_in_one_sentence(text, message):
    with pytest.raises(UserError) as caught:
        parse_document(text, "s.yaml")
    assert str(caught.value) == message


def test_no_object_is_made_from_a_tag():
    with pytest.raises(UserError, match=r"python/object/apply:os\.system"):
        parse_document("a: !!python/object/apply:os.system ['exit 3']", "s.yaml")


def test_aliases_of_aliases_cost_no_more_than_their_text():
    lines = ["k0: &k0 [x, x]"] + [f"k{n}: &k{n} [*k{n - 1}, *k{n - 1}]" for n in range(1, 60)]
    document = parse_document("\n".join(lines), "s.yaml")
    assert document.where(("k59",)) == "s.yaml:60"


@given(st.one_of(st.text(max_size=40), YAML_TEXT))
@example("a: &a {b: *a}")
@example("? ? a")
@example("!!binary a: 1")
@example("a: !!float x")
@example("<<: 1")
@settings(max_examples=60, deadline=None)
def test_arbitrary_text_is_a_document_or_a_user_error(text):
    only_a_user_error(parse_document, text, "s.yaml")


@given(st.one_of(st.text(max_size=40), YAML_TEXT))
@example("!!int x")
@example("[" * 600)
@example("\0")
@example("1" * 5000)
@settings(max_examples=30, deadline=None)
def test_arbitrary_text_is_a_value_or_a_user_error(text):
    only_a_user_error(parse_value, text, "--set key=value")


@pytest.mark.parametrize("text", ["[a", "a: b: c", "{", "*x"])
def test_a_value_that_is_not_yaml_is_a_word(text):
    assert parse_value(text, "--set") == text
