"""What a LaTeX job runs inside its sandbox: TeX until its references stand, then pages; it imports nothing of Praxis.

The adapter hands its source to the harness, with `parameters`. The working directory holds a stranger's files, so it
is taken out of the import path before anything is imported.
"""

from __future__ import annotations

import sys

sys.path[:] = [folder for folder in sys.path if folder and not folder.startswith("/workspace")]

import glob  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_RUNS = 5
PLAIN = "praxis-source.tex"  # of a source with a name that TeX cannot read
SAFE = ("-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error")
# What TeX and its companions write for themselves.
BY_PRODUCTS = re.compile(
    r".*\.(aux|bbl|bcf|blg|brf|dvi|fls|glo|gls|idx|ilg|ind|lof|log|lot|nav|nlo|out|run\.xml|snm|synctex\.gz|toc|vrb|xdv)"
)
AGAIN = re.compile(
    r"Rerun to get|Rerun LaTeX|rerun LaTeX|Please rerun|There were undefined (?:references|citations)"
)
FRESH = re.compile(r"^No file .*\.(?:toc|lof|lot|ind|gls|nls|bbl)\.", re.MULTILINE)
UNRESOLVED = re.compile(r"(?:Reference|Citation) [`'](.+?)' on page \S+ undefined")


class TexFailure(Exception):
    """A program failed; the message is one line."""


def main(order: dict[str, Any]) -> dict[str, Any]:
    """Make pages of a source; returns the value of the job."""
    kind, stem, top = order["format"], order["stem"], os.getcwd()
    folder, source = os.path.split(order["source"])
    os.chdir(
        folder or "."
    )  # as everybody does who runs TeX; files beside the source are found by their names
    if folder:
        os.environ["TEXINPUTS"] = f".:{top}:"
        os.environ["BIBINPUTS"] = f".:{top}:"
    before = set(all_files())
    engine = "latex" if kind == "svg" else "pdflatex"
    log = typeset(engine, stem, source, order["snippet"])
    for name in dict.fromkeys(UNRESOLVED.findall(log)):
        note(f"'{name[:200]}' is referred to and defined nowhere")
    pages, left_out = 1, 0
    if kind != "pdf":
        pages, left_out = draw(kind, stem, order["dpi"], order["most_pages"])
        if left_out:
            note(f"{left_out} of {pages + left_out} pages are left out: the job may leave {pages} artifacts")
    clean(stem, before, kind)
    for name in glob.glob(f"{stem}*.{kind}") if folder else ():
        os.rename(name, f"{top}/{name}")
    os.chdir(top)
    value: dict[str, Any] = {"format": kind}
    if kind != "pdf" and pages + left_out > 1:
        value["pages"] = pages
        if left_out:
            value["pages_left_out"] = left_out
    return value


def typeset(engine: str, stem: str, source: str, snippet: str) -> str:
    """Run TeX, and again while its log asks for it; returns the last log."""
    command = (engine, *SAFE, "-jobname", stem, operand(source))
    log, state = tex(command, stem, snippet), notes(stem)
    companions = consult(stem)
    for _ in range(MOST_RUNS - 1):
        if not (companions or FRESH.search(log) or AGAIN.search(log)):
            break
        log, companions = tex(command, stem, snippet), False
        earlier, state = state, notes(stem)
        if earlier == state and not re.search(r"Rerun to get|Please rerun", log):
            break  # what is undefined now stays so
    else:
        note(f"references still change after {MOST_RUNS} runs of TeX")
    return log


def operand(source: str) -> str:
    """Return a file name that no TeX takes for an option, a format or a command."""
    if re.fullmatch(r"[A-Za-z0-9_.+-]+", source):
        return f"./{source}"
    shutil.copyfile(source, PLAIN)
    return f"./{PLAIN}"


def tex(command: tuple[str, ...], stem: str, snippet: str) -> str:
    """Run TeX once; returns its log."""
    code, output = run(command)
    log = read(f"{stem}.log") or output
    if code != 0:
        message, excerpt = complaint(output, snippet)
        tell(excerpt)
        raise TexFailure(f"{command[0]}: {message}")
    return log


def complaint(output: str, snippet: str) -> tuple[str, str]:
    """Return TeX's own message with the line that it is about, as one line; and what TeX says around it."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        found = re.match(
            r"(?:(?:\./)?(?P<file>[^\s:][^:]*):(?P<line>\d+)|!): ?(?P<message>.*)|! (?P<alone>.*)", line
        )
        if not found:
            continue
        message = found["message"] or found["alone"] or ""
        rest = lines[number + 1 : number + 12]
        if message.startswith(("==> Fatal error", "Emergency stop")):
            more = [said.strip("* ") for said in rest[:3] if said.startswith("***")]
            message = "; ".join([message.rstrip("."), *more])
        place = place_of(found["file"], found["line"], snippet) if found["file"] else ""
        around = next((said for said in rest if re.match(r"l\.\d+", said)), "")
        said = re.sub(r"^l\.\d+ ?", "", around).strip()[-80:]
        excerpt = "\n".join(lines[number : number + 1 + (rest.index(around) + 2 if around else 0)])
        return f"{place}{message.strip()}" + (f" (at: {said})" if said and place else ""), excerpt
    said = next((line.strip() for line in reversed(lines) if line.strip()), "ended without a message")
    return said, "\n".join(lines[-20:])


def place_of(file: str, line: str, snippet: str) -> str:
    """Return where a mistake is: the line of what was handed over, or of a file beside it; nowhere in our own."""
    if file in (os.path.basename(snippet), PLAIN):
        return f"line {line}: "
    return "" if file == "source.tex" else f"{file}:{line}: "


def consult(stem: str) -> bool:
    """Let the makers of bibliographies and indexes work where they are asked for; tells whether one has."""
    worked = False
    auxiliary = "".join(read(path) for path in glob.glob(f"{glob.escape(stem)}.aux"))
    if re.search(r"\\bibdata\{", auxiliary):
        worked |= companion(("bibtex", stem), "bibliography")
    if os.path.exists(f"{stem}.bcf"):
        worked |= companion(("biber", stem), "bibliography")
    if os.path.exists(f"{stem}.idx"):
        worked |= companion(("makeindex", "-q", f"{stem}.idx"), "index")
    return worked


def companion(command: tuple[str, ...], makes: str) -> bool:
    """Run a companion of TeX; tells whether it worked."""
    try:
        code, output = run(command)
    except FileNotFoundError:
        note(f"the {makes} is left out: this host has no {command[0]}")
        return False
    if code != 0:
        lines = [line for line in output.splitlines() if line.strip() and not line.startswith("This is ")]
        note(f"{command[0]}: {next(iter(lines), 'failed')[:300]}")
    return True


def draw(kind: str, stem: str, dpi: int, most: int) -> tuple[int, int]:
    """Make a file of each page, of the first ones where there are too many; returns how many, and how many not."""
    if kind == "svg":
        # It says at its end how many of how many pages it has converted.
        output = must(
            "dvisvgm",
            "--no-fonts",
            "--exact",
            "--verbosity=7",
            f"--page=1-{most}",
            f"--output={stem}-page-%p.svg",
            f"{stem}.dvi",
        )
        counted = re.search(r"\d+ of (\d+) pages? converted", output)
        total = int(counted[1]) if counted else 1
    else:
        pdf = f"{stem}.pdf"
        must("pdftoppm", "-png", "-r", str(dpi), "-l", str(most), pdf, f"{stem}-page")
        counted = re.search(r"^Pages:\s+(\d+)", run(("pdfinfo", pdf))[1], re.MULTILINE)
        total = int(counted[1]) if counted else 1
    found = sorted(glob.glob(f"{stem}-page-*.{kind}"), key=lambda path: int(re.findall(r"\d+", path)[-1]))
    if not found:
        raise TexFailure("TeX made no pages; write something that shows")
    for number, path in enumerate(found, 1):
        os.rename(path, f"{stem}.{kind}" if total == 1 else f"{stem}-{number}.{kind}")
    return len(found), max(0, total - len(found))


def must(*command: str) -> str:
    """Run a program that has to succeed; returns what it said."""
    code, output = run(command)
    if code != 0:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        raise TexFailure(f"{command[0]}: {lines[-1] if lines else f'exited with code {code}'}")
    return output


def run(command: tuple[str, ...]) -> tuple[int, str]:
    """Run a program; returns its exit code and what it said."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def notes(stem: str) -> list[bytes]:
    """Return what TeX has noted for its next run."""
    found = []
    for path in sorted(all_files()):
        if path.endswith((".aux", ".toc", ".lof", ".lot", ".out", ".bbl", ".ind", ".nav")):
            with open(path, "rb") as file:
                found.append(file.read())
    return found


def clean(stem: str, before: set[str], kind: str) -> None:
    """Remove what is no result: what TeX has written for itself."""
    for path in all_files():
        name = os.path.basename(path)
        if path in before:
            continue
        if name == PLAIN or BY_PRODUCTS.fullmatch(name) or (name == f"{stem}.pdf" and kind != "pdf"):
            os.remove(path)


def all_files() -> list[str]:
    """Return every file below the working directory but the harness's own."""
    return [
        os.path.join(base, name)
        for base, _, names in os.walk(".")
        if not base.startswith("./.praxis")
        for name in names
    ]


def read(path: str) -> str:
    """Return a text of TeX's; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def note(text: str) -> None:
    """Tell people what is not as they may expect."""
    tell(f"latex: {text}")


def tell(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def perform(order: dict[str, Any]) -> dict[str, Any]:
    """Do as `main`, and end with one line where it fails."""
    try:
        return main(order)
    except TexFailure as failure:
        tell(str(failure))
        raise SystemExit(1) from None
