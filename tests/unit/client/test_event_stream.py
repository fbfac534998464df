"""Server-sent events, by the examples of the standard and by cutting streams anywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.event_stream import EventStreamParser, ServerEvent

LINES = st.sampled_from(
    [
        "",
        ": ping",
        ":",
        "data",
        "data:",
        "data: {}",
        "data:  two spaces",
        "data: é漢🙂",
        "event: status",
        "event",
        "id: 3.0",
        "id",
        "retry: 1000",
        "retry: soon",
        "unknown: field",
        "data: \ufeff",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=20).map(
    lambda lines: b"".join(t.encode() + end for t, end in lines)
)


def parse(*pieces: bytes) -> list[ServerEvent]:
    parser = EventStreamParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(stream=st.one_of(STREAMS, st.binary(max_size=80)), cuts=st.lists(st.integers(0, 200), max_size=20))
def test_the_events_are_the_same_wherever_a_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert parse(*pieces) == parse(stream)
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == parse(stream)


@given(lines=st.lists(LINES, max_size=20), end=ENDS)
def test_the_three_line_ends_mean_the_same(lines: list[str], end: bytes) -> None:
    def written(line_end: bytes) -> bytes:
        return b"".join(line.encode() + line_end for line in lines)

    assert parse(written(end)) == parse(written(b"\n"))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "", "YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [("message", "1", "first event"), ("message", "", "second event"), ("message", "", " third event")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "", "\n")]),
        (b"data:test\n\ndata: test\n\n", [("message", "", "test"), ("message", "", "test")]),
        (b"id: 7.2\nevent: progress\ndata: {}\n\ndata: x\n\n", [("progress", "7.2", "{}"), ("message", "7.2", "x")]),
        (b"event: lost\n\ndata: x\n\n", [("message", "", "x")]),
        (b"id: a\0b\ndata: x\n\n", [("message", "", "x")]),
        (b"\xef\xbb\xbfdata: x\n\n", [("message", "", "x")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", []),
        (b"data: \xff\n\n", [("message", "", "\N{REPLACEMENT CHARACTER}")]),
        (b"data: cut off\n", []),
        (b"", []),
    ],
)
def test_a_stream_means_what_the_standard_says(stream: bytes, events: list[tuple[str, str, str]]) -> None:
    assert parse(stream) == [ServerEvent(*event) for event in events]


def test_an_event_is_complete_at_its_carriage_return_already() -> None:
    assert parse(b"data: x\r\n\r") == [ServerEvent("message", "", "x")]


def test_a_blank_line_is_not_made_of_the_two_halves_of_one_line_end() -> None:
    assert parse(b"data: x\r", b"\n", b"data: y\r", b"", b"\n\r", b"\n") == [ServerEvent("message", "", "x\ny")]


@pytest.mark.parametrize(
    ("line", "seconds"), [(b"retry: 1000", 1.0), (b"retry:250", 0.25), (b"retry: -1", None), (b"retry: \xc2\xb2", None)]
)
def test_a_stream_says_how_long_to_wait_before_connecting_again(line: bytes, seconds: float | None) -> None:
    parser = EventStreamParser()
    parser.feed(line + b"\n")
    assert parser.retry_seconds == seconds
