"""Documents that attack through TeX and what draws its pages."""

from .case import EXITS, MIB, OK, TIMED_OUT, Case, exceeds

_LIMITS = {"wall_s": 20, "cpu_s": 15, "memory_bytes": 512 * MIB, "stdout_bytes": MIB, "stderr_bytes": MIB}


def _tex(body: str, kind: str = "pdf") -> dict[str, object]:
    document = rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}"
    return {"runtime": "latex", "code": document, "parameters": {"format": kind}}


CASES = [
    Case(
        "an honest formula is drawn",
        {"runtime": "latex", "code": r"\frac{a}{b}"},
        OK,
        limits=_LIMITS,
        artifacts=("output.svg",),
    ),
    Case(
        r"\write18 runs nothing",
        _tex(r"\immediate\write18{touch pwned; cat /etc/passwd > leak.txt}x"),
        OK,
        limits=_LIMITS,
        artifacts=("output.pdf",),
    ),
    Case(r"\input of a pipe runs nothing", _tex(r'\input{|"id"}'), EXITS, limits=_LIMITS, lacks=("uid=",)),
    Case(r"\input of /etc/passwd is refused", _tex(r"\input{/etc/passwd}"), EXITS, limits=_LIMITS),
    Case(
        r"\openin of a parent folder finds nothing",
        _tex(r"\newread\f\openin\f=/etc/passwd \ifeof\f none\else\errmessage{leaked}\fi"),
        OK,
        limits=_LIMITS,
    ),
    Case(
        r"\openout elsewhere is refused",
        _tex(r"\newwrite\f\immediate\openout\f=/tmp/evil.tex x"),
        EXITS,
        limits=_LIMITS,
    ),
    # TeX checks what it reads as source, not what it embeds; so what counts is that the file is the sandbox's own.
    Case(
        "a file embedded in the page is none of the host",
        _tex(r"\immediate\pdfobj stream file {/etc/passwd}x"),
        OK,
        limits=_LIMITS,
    ),
    Case(
        "a file of the host embedded in the page is not there",
        _tex(r"\immediate\pdfobj stream file {/etc/shadow}x"),
        EXITS,
        limits=_LIMITS,
    ),
    Case("Lua is not there", _tex(r"\directlua{os.execute('id')}"), EXITS, limits=_LIMITS),
    Case(
        "PostScript in a page runs no program",
        _tex(r"\special{ps: (/tmp/evil) (w) file closefile (%pipe%id) (r) file}x", "svg"),
        (OK, EXITS),
        limits=_LIMITS,
        lacks=("uid=",),
    ),
    Case(
        r"\loop for ever ends at the processor time",
        _tex(r"\loop\iftrue\repeat"),
        (exceeds("cpu_s"), EXITS),
        limits={**_LIMITS, "cpu_s": 1},
    ),
    Case(
        "a macro that doubles for ever ends",
        _tex(r"\def\a{\a\a}\a"),
        EXITS,
        limits=_LIMITS,
    ),
    Case(
        "endless pages end at a limit",
        _tex(r"\loop\iftrue x\newpage\repeat"),
        (exceeds("cpu_s"), exceeds("file_size_bytes"), exceeds("scratch_bytes"), TIMED_OUT, EXITS),
        limits={**_LIMITS, "cpu_s": 2, "wall_s": 5},
    ),
    Case(
        "a picture of a square kilometre is refused or bounded",
        {"runtime": "latex", "code": r"\rule{500cm}{500cm}", "parameters": {"format": "png", "dpi": 1200}},
        (OK, EXITS, exceeds("memory_bytes"), exceeds("cpu_s"), exceeds("file_size_bytes"), TIMED_OUT),
        limits={**_LIMITS, "cpu_s": 3, "wall_s": 6},
    ),
]
