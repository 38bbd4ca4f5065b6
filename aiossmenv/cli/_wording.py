"""Pure: the library's errors in the words of the command line. What they advise is Python, with its arguments."""

import re

# What an error says, as a pattern, and what it says here.
_WORDINGS = [
    (re.compile(pattern), words)
    for pattern, words in (
        (r"pass store=ParameterStore\(region=\.\.\.\)", "pass --region"),
        (r"Pass overwrite=True to write", "Leave --new out to write"),
        (r"pass allow_empty=True", "pass --allow-empty"),
        (r", or pass to_key=str to keep names as they are", ""),
        (r", give it another key with to_key, or pass protected= with a list of your own: \(\) allows all", ""),
        (r", or pass environ=None to fill no environment", ""),
        (r", or pass a longer deadline", ""),
        (r"as several arguments: load_env\('/A/', '/B/'\)", "as several arguments: /A/ /B/"),
        (r"as a list: keys=\['DB_URL', 'DB_USER'\]", "each with its own --key: --key DB_URL --key DB_USER"),
        (r"load_env\('([^']*)',\s+keys=\['([^']*)'\]\)", r"\1 --key \2"),
        (r"load_env\('([^']*)'\)", r"\1"),
        (r"read it by its ARN with ParameterStore\(\)\.get\(\)", "read it by its ARN: aiossmenv get ARN"),
        (r"keys=\['([^']*)'\]", r"--key \1"),
        (r"\bkeys=", "--key"),
        (r"Pass the value itself: .*", "Pass the value itself."),
        (r"\b(tier|type)='(\w+)'", r"--\1 \2"),
        (r"\b(tier|type)= one", r"--\1 one"),
        (r"\bno key_id\b", "no --key-id"),
    )
]


def in_words_of_the_command(text: str) -> str:
    """Return the *text* of an error with options of the command where it names arguments of Python."""
    for pattern, words in _WORDINGS:
        text = pattern.sub(words, text)
    return text
