"""Counts lines, words and characters of a text, and writes a report beside it.

The text is named by the argument `input_file`. Output: a summary for people on stdout, and the report
as JSON in the folder `reports` next to the text.
"""

import collections
import json
import os
import pathlib
import re
import sys


def analyze(text: str) -> dict[str, object]:
    """Return the statistics of a text."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    frequent = collections.Counter(word for word in words if len(word) > 4).most_common(5)
    return {
        "lines": text.count("\n"),
        "words": len(words),
        "characters": len(text),
        "distinct_words": len(set(words)),
        "average_word_length": round(sum(map(len, words)) / max(len(words), 1), 2),
        "most_frequent": dict(frequent),
    }


def main() -> int:
    """Analyze the text that the caller named."""
    path = pathlib.Path(os.environ.get("ARG_INPUT_FILE", ""))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"cannot read '{path}': {error}", file=sys.stderr)
        return 1
    statistics = analyze(text)
    report = path.parent / "reports" / f"{path.stem}.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps({"input": path.name, **statistics}, indent=2) + "\n", encoding="utf-8")
    print(f"{path.name}: {statistics['lines']} lines, {statistics['words']} words, most frequent:")
    for word, count in statistics["most_frequent"].items():
        print(f"  {word:<12} {count:>5}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
