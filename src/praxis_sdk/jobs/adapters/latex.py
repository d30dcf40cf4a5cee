r"""LaTeX jobs: a formula or a document becomes SVG, PNG or PDF, with TeX Live inside the sandbox.

The source is a stranger's program: TeX loops, writes files and would run shells. The sandbox bounds it;
beyond that shell escape is off and TeX may open nothing outside its folder (`openin_any=p`).

A formula or a text is read by TeX from a file of its own, so that a comment at its end hides nothing of ours, and the
lines that TeX names are the lines of the source.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.jobs.adapters import latex_driver
from praxis_sdk.jobs.adapters.base import Findings, PreparedJob, Report, RuntimeAdapter, WorkFile
from praxis_sdk.jobs.adapters.inputs import came_in, placed_files
from praxis_sdk.jobs.adapters.latex_source import Mode, understand
from praxis_sdk.jobs.payload.payload import JobPayload

if TYPE_CHECKING:
    from praxis_sdk.jobs.environments.store import Environment

FORMATS: Final = ("svg", "png", "pdf")
PARAMETERS: Final = ("format", "dpi")
SOURCE: Final = "source.tex"
SNIPPET: Final = "formula.tex"
DEFAULT_DPI: Final = 300
MAX_DPI: Final = 1200

# What each format needs; poppler turns the PDF into pixels.
PROGRAMS: Final = {
    "svg": ("latex", "dvisvgm"),
    "pdf": ("pdflatex",),
    "png": ("pdflatex", "pdftoppm", "pdfinfo"),
}

# A formula alone is set in a box that becomes the page, so that every format is as large as the formula.
_DOCUMENT: Final = r"""\documentclass{article}
\usepackage{amsmath,amssymb}
\pagestyle{empty}
\newsavebox\praxisbox
\begin{document}
%s
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
_READ: Final = (
    rf"\csname @@input\endcsname {SNIPPET} "  # TeX's own \input, which works in formulas and tables, too
)
_IN_PARAGRAPHS: Final = (
    rf"\begin{{lrbox}}{{\praxisbox}}\begin{{minipage}}{{15cm}}{_READ}\end{{minipage}}\end{{lrbox}}%"
)
_BOXES: Final = {
    Mode.FORMULA: rf"\begin{{lrbox}}{{\praxisbox}}$\displaystyle {_READ}$\end{{lrbox}}%",
    Mode.ALIGNED: rf"\begin{{lrbox}}{{\praxisbox}}$\begin{{aligned}}{_READ}\end{{aligned}}$\end{{lrbox}}%",
    Mode.LINE: rf"\begin{{lrbox}}{{\praxisbox}}{_READ}\end{{lrbox}}%"
    "\n"
    rf"\ifdim\wd\praxisbox>15cm {_IN_PARAGRAPHS}"
    "\n\\fi",
    Mode.PARAGRAPHS: _IN_PARAGRAPHS,
}
_ABSENT: Final = re.compile(r"File [`']([A-Za-z0-9_+-]{1,80}\.(?:sty|cls|clo|ldf))' not found")
_NO_FONT: Final = re.compile(r"Font \S+?=([a-z0-9-]{1,40}) .*not loadable: Metric \(TFM\)")


class LatexAdapter(RuntimeAdapter):
    """Renders `code` (a formula, a text or a document), or `files` from their entrypoint.

    Parameters of the payload: `format` (svg, png or pdf), `dpi` (for png).
    """

    name = "latex"
    version = "2"

    def prepare(self, payload: JobPayload) -> PreparedJob:
        """Say what has to be placed and run; see `RuntimeAdapter.prepare`."""
        for name in payload.parameters:
            if name not in PARAMETERS:
                raise ValidationError(
                    f"payload.parameters.{name[:40]}: LaTeX has no use for it",
                    remedy="it takes format and dpi",
                )
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
        for field in ("argv", "stdin", "module"):
            if getattr(payload, field):
                raise ValidationError(f"payload.{field}: LaTeX has no use for it", remedy="leave it out")
        files = placed_files(payload)
        source = snippet = SOURCE
        if payload.files and payload.entrypoint:
            source = snippet = payload.entrypoint
        elif payload.code is not None:
            read = understand(payload.code)
            if read.mode is Mode.DOCUMENT:
                files = (*files, WorkFile(SOURCE, read.text.encode()))
            else:
                snippet = SNIPPET
                whole = _DOCUMENT.replace("%s", _BOXES[read.mode], 1)
                files = (*files, WorkFile(SOURCE, whole.encode()), WorkFile(SNIPPET, read.text.encode()))
        else:
            raise ValidationError("payload.code: missing", remedy="give a formula or a document")
        stem = _free_stem({file.path.rpartition("/")[2] for file in files})
        order = {
            "format": kind,
            "stem": stem,
            "dpi": dpi,
            "source": source,
            "snippet": snippet,
            "most_pages": max(1, payload.limits.artifact_count),
        }
        return PreparedJob(
            files=files,
            python={
                "name": "latex.py",
                "code": f"{inspect.getsource(latex_driver)}\nperform(parameters)\n",
                "inputs": {},
                "parameters": order,
            },
            variables={
                "openin_any": "p",
                "openout_any": "p",
                "shell_escape": "f",
                "FORCE_SOURCE_DATE": "1",
                "TEXMFVAR": "/tmp/texmf-var",
                "TEXMFHOME": "/tmp/texmf-home",
                "max_print_line": "1000",  # messages in one line each
                "error_line": "254",
                "half_error_line": "238",
            },
            leave=came_in(files),
            requires=PROGRAMS[str(kind)],
        )

    def collect_outputs(self, payload: JobPayload, report: Report) -> Findings:
        """Say how the rendering ended; see `RuntimeAdapter.collect_outputs`."""
        value = report.result.get("value") if isinstance(report.result, dict) else None
        if report.exit_code == 0 and isinstance(value, dict):
            return Findings(outputs=value)
        last = next((line for line in reversed(report.stderr.splitlines()) if line.strip()), "TeX failed")
        absent = _ABSENT.search(last)
        font = _NO_FONT.search(last)
        asked_for = absent[1] if absent else f"{font[1]}.tfm" if font else ""
        return Findings(code="exit_nonzero", message=last, asked_for=asked_for)

    def lack(self, asked_for: str, payload: JobPayload, environment: Environment) -> str:
        """Ask TeX's own index for a file; see `RuntimeAdapter.lack`."""
        path = environment.variables["PATH"]
        program = shutil.which("kpsewhich", path=path)
        if program is None:
            return ""
        found = subprocess.run(
            [program, "--", asked_for], capture_output=True, env={"PATH": path}, timeout=30, check=False
        )
        if found.returncode == 0:
            return ""
        return (
            f"the TeX of this host has no {asked_for} (hand it over with the job, or install the package that holds "
            f"it, on Debian: apt-file search /{asked_for}; texlive-latex-extra and texlive-science hold most)"
        )


def _free_stem(taken: set[str]) -> str:
    """Return a name for the results that no file of the job begins with."""
    stem, number = "output", 1
    while any(name.startswith((f"{stem}.", f"{stem}-")) for name in taken):
        number += 1
        stem = f"output{number}"
    return stem
