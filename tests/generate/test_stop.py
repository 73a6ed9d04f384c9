"""Stop texts, however the text is cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rocmforge_torch.generate.stop import StopFilter

LETTERS = st.text("ab", max_size=12)


@given(st.lists(LETTERS, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_pieces_give_what_the_whole_text_gives(pieces: list[str], stops: list[str]) -> None:
    stop = StopFilter(stops)
    got = ""
    for piece in pieces:
        got += stop.push(piece)
        assert not any(s in got for s in stops)
    got += stop.finish()
    whole = "".join(pieces)
    ends = [whole.find(s) for s in stops if s in whole]
    assert stop.stopped == bool(ends)
    # A longer stop text that begins earlier may lose to a shorter one that is complete first.
    assert whole.startswith(got)
    if ends:
        assert min(ends) <= len(got)
        assert any(whole.startswith(s, len(got)) for s in stops)
    else:
        assert got == whole


@given(st.lists(LETTERS, max_size=8))
def test_without_stop_texts_nothing_is_held_back(pieces: list[str]) -> None:
    stop = StopFilter()
    assert [stop.push(piece) for piece in pieces] == pieces
    assert stop.finish() == ""


def test_only_what_could_become_a_stop_text_is_held_back() -> None:
    stop = StopFilter(["<end>", "\n\n"])
    assert stop.push("one <en") == "one "
    assert stop.push("ough\n") == "<enough"
    assert stop.push("two\n\nthree") == "\ntwo"
    assert stop.stopped
    assert stop.push("four") == ""
    assert stop.finish() == ""
