"""Texts of others on their way to a terminal, which would do what some of their characters say."""


def make_plain(text: object, *, keep_lines: bool = False) -> str:
    """The text with a space for whatever steers a terminal or cannot be shown; line ends stay with `keep_lines`."""
    kept = "\n" if keep_lines else ""
    return "".join(letter if letter.isprintable() or letter in kept else " " for letter in str(text))
