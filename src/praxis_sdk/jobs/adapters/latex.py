"""LaTeX jobs: a formula or a document becomes SVG, PNG or PDF, with TeX Live inside the sandbox.

The source is a stranger's program: TeX loops, writes files and would run shells. The sandbox bounds it;
beyond that shell escape is off and TeX may open nothing outside its folder (`openin_any=p`).
"""

from __future__ import annotations

from typing import Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.adapters.base import Findings, Report, RuntimeAdapter, Work, WorkFile
from praxis_sdk.jobs.adapters.inputs import came_in, placed_files
from praxis_sdk.jobs.payload import JobPayload

FORMATS: Final = ("svg", "png", "pdf")
SOURCE: Final = "source.tex"
DEFAULT_DPI: Final = 300
MAX_DPI: Final = 1200

# What each format needs; poppler turns the PDF into pixels.
PROGRAMS: Final = {
    "svg": ("latex", "dvisvgm"),
    "pdf": ("pdflatex",),
    "png": ("pdflatex", "pdftoppm"),
}

# A formula alone is set in a box that becomes the page, so that every format is as large as the formula.
_DOCUMENT: Final = r"""\documentclass{article}
\usepackage{amsmath,amssymb}
\pagestyle{empty}
\newsavebox\praxisbox
\begin{document}
\begin{lrbox}{\praxisbox}%
%s%
\end{lrbox}%
\newdimen\praxisheight
\praxisheight=\ht\praxisbox \advance\praxisheight by \dp\praxisbox \advance\praxisheight by 4pt
\newdimen\praxiswidth
\praxiswidth=\wd\praxisbox \advance\praxiswidth by 4pt
\ifdefined\pdfpagewidth \pdfpagewidth=\praxiswidth \pdfpageheight=\praxisheight \fi
\hoffset=-1in \voffset=-1in
\setbox0=\vbox to \praxisheight{\kern2pt\hbox{\kern2pt\box\praxisbox}\vss}%
\shipout\box0
\end{document}
"""

# Runs inside the sandbox, by the Python adapter's harness.
_DRIVER: Final = r"""
import os, re, subprocess, sys

def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        text = done.stdout.decode("utf-8", "replace")
        told = re.compile(r"!|l\.[0-9]|\S+:[0-9]+: ")
        lines = [line for line in text.splitlines() if told.match(line)]
        print(text[-20000:], file=sys.stderr)
        sys.stderr.flush()
        os.write(2, ("\n" + command[0] + ": " + "; ".join(lines[:3]) + "\n").encode())
        sys.exit(1)

kind, stem, dpi = parameters["format"], parameters["stem"], parameters["dpi"]
safe = ("-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error")
if kind == "svg":
    run("latex", *safe, "-jobname", stem, parameters["source"])
    run("dvisvgm", "--no-fonts", "--exact", "--verbosity=3", "--output=" + stem + ".svg", stem + ".dvi")
else:
    run("pdflatex", *safe, "-jobname", stem, parameters["source"])
    if kind == "png":
        run("pdftoppm", "-png", "-singlefile", "-r", str(dpi), stem + ".pdf", stem)
"""


class LatexAdapter(RuntimeAdapter):
    """Renders `code` (a formula or a document), or `files` from their entrypoint.

    Parameters of the payload: `format` (svg, png or pdf), `dpi` (for png).
    """

    name = "latex"
    version = "1"

    def prepare(self, payload: JobPayload) -> Work:
        """Say what has to be placed and run; see `RuntimeAdapter.prepare`."""
        kind = payload.parameters.get("format", "svg")
        if kind not in FORMATS:
            raise ValidationError(
                f"payload.parameters.format: {str(kind)[:40]!r} is unknown",
                remedy=f"known: {', '.join(FORMATS)}",
            )
        dpi = payload.parameters.get("dpi", DEFAULT_DPI)
        if isinstance(dpi, bool) or not isinstance(dpi, int) or not 1 <= dpi <= MAX_DPI:
            raise ValidationError(
                "payload.parameters.dpi: not a resolution", remedy=f"give a whole number up to {MAX_DPI}"
            )
        files = placed_files(payload)
        source = SOURCE
        if payload.files and payload.entrypoint:
            source = payload.entrypoint
        elif payload.code is not None:
            files = (*files, WorkFile(SOURCE, document(payload.code).encode()))
        else:
            raise ValidationError("payload.code: missing", remedy="give a formula or a document")
        stem = "output"
        byproducts = {f"{stem}.{suffix}" for suffix in ("aux", "log", "dvi", "out", "toc", "pdf")} - {
            f"{stem}.{kind}"
        }
        return Work(
            files=files,
            python={
                "name": "latex.py",
                "code": _DRIVER,
                "inputs": {},
                "parameters": {"format": kind, "stem": stem, "dpi": dpi, "source": source},
            },
            variables={
                "openin_any": "p",
                "openout_any": "p",
                "shell_escape": "f",
                "FORCE_SOURCE_DATE": "1",
                "TEXMFVAR": "/tmp/texmf-var",
                "TEXMFHOME": "/tmp/texmf-home",
            },
            leave=came_in(files) | byproducts,
            requires=PROGRAMS[str(kind)],
        )

    def collect_outputs(self, payload: JobPayload, report: Report) -> Findings:
        """Say how the rendering ended; see `RuntimeAdapter.collect_outputs`."""
        if report.exit_code == 0:
            return Findings(outputs={"format": payload.parameters.get("format", "svg")})
        last = next((line for line in reversed(report.stderr.splitlines()) if line.strip()), "TeX failed")
        return Findings(code="exit_nonzero", message=last)


def document(code: str) -> str:
    """Return a whole document for a source: a document as it is, a formula in a box of its size."""
    if r"\documentclass" in code or r"\documentstyle" in code:
        return code
    formula = code.strip()
    if not formula.startswith(("$", r"\(", r"\[", r"\begin")):
        formula = rf"$\displaystyle {formula}$"
    elif formula.startswith(r"\["):
        formula = formula.replace(r"\[", r"$\displaystyle ", 1)
        formula = "$".join(formula.rsplit(r"\]", 1))
    elif formula.startswith("$$"):
        formula = rf"$\displaystyle {formula.strip('$')}$"
    elif formula.startswith(r"\begin"):
        formula = rf"\begin{{minipage}}{{15cm}}{formula}\end{{minipage}}"
    return _DOCUMENT.replace("%s", formula, 1)
