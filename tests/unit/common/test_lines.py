"""Lines of a manifest: how a file is cut into them, and what one says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.errors import Invalid
from common.requests import lines as module
from common.requests import validation
from common.requests.lines import check_defaults, check_size, iterate_lines, read_custom_id, read_line

UPLOAD = "upl_" + "0" * 32


def line(**members: object) -> bytes:
    return json.dumps(members).encode()


@given(
    texts=st.lists(st.binary(max_size=12).filter(lambda text: b"\n" not in text)),
    size=st.integers(1, 7),
    end=st.sampled_from([b"", b"\n", b"\r\n", b"\n\n"]),
)
def test_lines_do_not_depend_on_the_pieces_in_which_they_come(texts: list[bytes], size: int, end: bytes) -> None:
    file = b"\n".join(texts) + end
    pieces = [file[at : at + size] for at in range(0, len(file), size)]
    assert list(iterate_lines(pieces)) == list(iterate_lines([file]))


def test_blank_lines_line_ends_and_a_byte_order_mark_are_no_part_of_any_line() -> None:
    file = b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"b": 2}\n\n'
    assert list(iterate_lines([file])) == [b'{"a": 1}', b'{"b": 2}']


def test_a_line_that_is_too_long_is_wrong_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINE_BYTES", 20)
    long, short = list(iterate_lines([b'{"prompt": "' + b"x" * 9, b"x" * 40, b'"}\n{"seed": 1}']))
    assert len(long) == 21
    (problem,) = read_line(0, long, {}).problems
    assert (problem.pointer, problem.code) == ("", "payload_too_large")
    assert read_line(1, short, {}).request


def test_a_line_goes_over_the_defaults_and_a_null_is_back_to_the_default_of_the_field() -> None:
    defaults = {"prompt": "a cat", "seed": 7, "strength": 0.5}
    request = read_line(0, line(prompt="a dog", seed=None), defaults).request
    assert request is not None
    assert (request.prompt, request.seed, request.strength) == ("a dog", None, 0.5)


@pytest.mark.parametrize(
    ("raw", "pointer", "code"),
    [
        (b"[1]", "", "invalid_json"),
        (b'{"prompt": "a", "prompt": "b"}', "", "invalid_json"),
        (b'{"strength": NaN}', "", "invalid_json"),
        (b"\xff", "", "invalid_json"),
        (line(promt="a cat"), "/promt", "unknown_field"),
        (line(priority="high"), "/priority", "validation_error"),
        (line(webhook=None), "/webhook", "validation_error"),
        (line(strength=2), "/strength", "validation_error"),
        (line(image={"upload": "x"}), "/image/upload", "validation_error"),
        (line(image={}), "/image", "validation_error"),
        (line(custom_id=""), "/custom_id", "validation_error"),
        (line(custom_id="x" * 256), "/custom_id", "validation_error"),
        (line(custom_id=5), "/custom_id", "validation_error"),
        (line(custom_id="a\0"), "/custom_id", "validation_error"),
        (line(prompt="\ud800"), "/prompt", "validation_error"),
        (line(**{"a\0\ud800": 1}), "/a\\u0000\\ud800", "unknown_field"),
        (line(output={"\0": 1}), "/output/\\u0000", "unknown_field"),
        (line(metadata={"\0": "a"}), "/metadata/\\u0000", "validation_error"),
        (line(external_id="x" * 256), "/external_id", "validation_error"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_place(raw: bytes, pointer: str, code: str) -> None:
    read = read_line(3, raw, {"seed": 1})
    assert read.request is None
    assert [(one.pointer, one.code) for one in read.problems] == [(pointer, code)]


def test_all_wrong_fields_of_a_line_are_named() -> None:
    read = read_line(0, line(promt="a", strength=2, custom_id=""), {})
    assert {one.pointer for one in read.problems} == {"/promt", "/strength", "/custom_id"}
    assert next(one for one in read.problems if one.pointer == "/promt").did_you_mean == "prompt"


@pytest.mark.parametrize(("raw", "custom_id"), [(line(custom_id="a"), "a"), (line(), "5"), (b"nonsense", "5")])
def test_the_id_of_a_line_is_its_own_or_its_number(raw: bytes, custom_id: str) -> None:
    assert read_line(5, raw, {}).custom_id == read_custom_id(5, raw) == custom_id


def test_of_many_unknown_names_the_first_are_named_and_few_of_them_are_guessed_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guessed: list[str] = []
    monkeypatch.setattr(validation, "nearest", lambda name, _: guessed.append(name))
    names = [f"name-{number}" for number in range(200)]
    read = read_line(0, line(**dict.fromkeys(names, 1)), {})
    assert [one.pointer for one in read.problems] == [f"/{name}" for name in names[:20]]
    read_line(0, line(output=dict.fromkeys(names, 1)), {})
    assert guessed == names[:5] * 2


def test_an_external_id_is_as_long_as_the_id_of_a_line_may_be() -> None:
    request = read_line(0, line(external_id="x" * 255), {}).request
    assert request is not None
    assert request.external_id == "x" * 255


def test_defaults_that_become_too_much_with_so_many_lines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DEFAULTS_BYTES", 1000)
    check_size({"prompt": "x" * 82}, 10)
    with pytest.raises(Invalid) as caught:
        check_size({"prompt": "é" * 50}, 10)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.detail.split()[0]) == ("/defaults", "114")


def test_good_defaults_pass() -> None:
    check_defaults({"model": "demo", "strength": 0.5, "image": {"upload": UPLOAD}, "seed": None})


def test_defaults_that_a_line_may_yet_make_right_pass() -> None:
    check_defaults({"keep": "all"})


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"promt": "a"}, "/promt"),
        ({"priority": "low"}, "/priority"),
        ({"webhook": {"url": "https://x.example"}}, "/webhook"),
        ({"custom_id": "a"}, "/custom_id"),
        ({"strength": 3}, "/strength"),
        ({"image": {"upload": UPLOAD, "url": "https://x.example"}}, "/image"),
        ({"output": {"format": "gif"}}, "/output/format"),
    ],
)
@pytest.mark.parametrize("root", ["/defaults", "/overrides"])
def test_wrong_defaults_are_refused_with_their_place(members: dict[str, object], pointer: str, root: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_defaults(members, root)
    assert [one.pointer for one in caught.value.problems] == [root + pointer]
