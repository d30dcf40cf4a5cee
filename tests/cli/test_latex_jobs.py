"""`praxis exec -r latex`: formulas, texts and documents as people write them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, only_line


def text_of(pdf: Path) -> str:
    """Return the words of a PDF, in one line."""
    done = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, check=True)
    return " ".join(done.stdout.decode().split())


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "1 2 3 4"),
        (r"\begin{cases} 1 & x > 0 \\ 2 & \text{else} \end{cases} % a comment", "1 2 x>0 else"),
        (r"\begin{array}{cc} 5 & 6 \end{array}", "5 6"),
        (r"A = \begin{bmatrix} 7 \end{bmatrix}", "A= 7"),
        (r"\begin{aligned} a &= 1 \\ b &= 2 \end{aligned}", "a=1 b=2"),
        (r"\begin{split} a &= 1 \\ b &= 2 \end{split}", "a=1 b=2"),
        (r"a &= 1 \\ b &= 2", "a=1 b=2"),
        (r"x + 1 % the square", "x+1"),
        (r"50\% + y % 50%", "50%+y"),
        ("z\n\n+ 3\n", "z+3"),
        (r"\[ x = 4 \] % done", "x=4"),
        ("$$\nx = 5\n$$", "x=5"),
        (r"x = \text{if $y$ is 6}", "x=ifyis6"),
        (r"$a$ and $b$", "aandb"),
        (r"The area is $\pi r^2$, at 7\% % or so", "Theareais"),
        (r"\begin{gather} a = 8 \\ b = 9 \end{gather}", "a=8 (1) b=9 (2)"),
        (r"\begin{equation*} c = 1 \end{equation*}", "c=1"),
        ("first\n\nsecond with $x$", "first second"),
        (r"\begin{itemize} \item one \item two \end{itemize}", "one two"),
        (r"\begin{tabular}{ll} a & $b$ \\ c & d \end{tabular} % table", "ac bd"),
        (r"\begin{document}whole\end{document}", "whole"),
        ("% \\documentclass{article}\nx = 2", "x=2"),
        (r"\documentclass{article}\begin{document}\verb|$| text % $" + "\n\\end{document}", "$text"),
    ],
)
def test_what_people_write_is_set_as_they_mean_it(at_home: AtHome, code: str, shown: str) -> None:
    done = at_home("exec", "-r", "latex", "-c", code, "-o", "made.pdf", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    found = re.sub(r"\s", "", text_of(at_home.cwd / "made.pdf"))
    for word in shown.split():
        assert word in found


def test_references_tables_of_contents_and_bibliographies_resolve(at_home: AtHome) -> None:
    paper = at_home.cwd / "paper"
    (paper / "parts").mkdir(parents=True)
    (paper / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{hyperref}\\begin{document}\\tableofcontents\n"
        "\\section{One}\\label{one} cites \\cite{k}, see \\ref{two} on page \\pageref{two}\n"
        "\\include{parts/two}\n\\bibliographystyle{plain}\\bibliography{refs}\\end{document}\n"
    )
    (paper / "parts/two.tex").write_text("\\section{Two}\\label{two} back to \\ref{one}")
    (paper / "refs.bib").write_text("@book{k, author={A. Knuth}, title={Texts}, publisher={P}, year=1984}")
    done = at_home("exec", "-r", "latex", "paper", "-o", "paper.pdf", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    text = text_of(at_home.cwd / "paper.pdf")
    assert "cites [1], see 2 on page 2" in text
    assert "back to 1" in text
    assert "A. Knuth. Texts. P, 1984." in text
    assert "??" not in text
    # From a folder around it, too; only the result is left.
    (at_home.cwd / "around").mkdir()
    paper.rename(at_home.cwd / "around/paper")
    words = ["around", "--entrypoint", "paper/main.tex", "-p", "format=pdf"]
    found = at_home.json("exec", "-r", "latex", *words)["result"]["artifacts"]
    assert [one["name"] for one in found] == ["output.pdf"]


def test_a_reference_to_nothing_is_told(at_home: AtHome) -> None:
    code = r"\documentclass{article}\begin{document}See \ref{nowhere}.\end{document}"
    done = at_home("exec", "-r", "latex", "-c", code, "--quiet")
    assert done.returncode == 0
    assert only_line(done.stderr) == "latex: 'nowhere' is referred to and defined nowhere"


PAGES = r"\documentclass{article}\begin{document}one\newpage two\newpage three\end{document}"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_every_page_comes(at_home: AtHome, suffix: str) -> None:
    done = at_home("exec", "-r", "latex", "-c", PAGES, "-o", f"plan.{suffix}", "-p", "dpi=40", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in at_home.cwd.iterdir()) == [f"plan-{n}.{suffix}" for n in (1, 2, 3)]


def test_pages_beyond_the_number_of_artifacts_are_left_out_and_told(at_home: AtHome) -> None:
    words = ["-p", "format=png", "-p", "dpi=40", "--max-artifacts", "2"]
    done = at_home("exec", "-r", "latex", "-c", PAGES, *words, "--quiet")
    assert done.returncode == 0
    assert only_line(done.stderr) == "latex: 1 of 3 pages are left out: the job may leave 2 artifacts"
    found = at_home.json("exec", "-r", "latex", "-c", PAGES, *words)["result"]
    assert [one["name"] for one in found["artifacts"]] == ["output-1.png", "output-2.png"]
    assert found["outputs"] == {"format": "png", "pages": 2, "pages_left_out": 1}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x\n+ \\foo y", "latex: line 2: Undefined control sequence. (at: + \\foo)"),
        (r"\frac{1}{2", r"latex: File ended while scanning use of \frac ."),
        ("one $x\n\ntwo$", "latex: line 2: Missing $ inserted."),
        (
            "\\documentclass{article}\n\\begin{document}\n\\begin{itemize}\nx\n\\end{itemize}\n\\end{document}",
            "latex: line 5: LaTeX Error: Something's wrong--perhaps a missing \\item.",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_words_of_tex(at_home: AtHome, code: str, told: str) -> None:
    failed = at_home.json("exec", "-r", "latex", "-c", code)["result"]["failure"]
    assert failed["category"] == "USER_CODE_ERROR"
    assert failed["message"].startswith(told)


def test_a_package_that_tex_lacks_is_a_missing_dependency(at_home: AtHome) -> None:
    code = r"\documentclass{article}\usepackage{no-such-package}\begin{document}x\end{document}"
    failed = at_home.json("exec", "-r", "latex", "-c", code)["result"]["failure"]
    assert (failed["category"], failed["code"]) == ("DEPENDENCY_ERROR", "dependency_missing")
    assert failed["message"].startswith("the TeX of this host has no no-such-package.sty (hand it over with ")
    # A message of the job's own is no proof.
    code = code.replace(r"\usepackage{no-such-package}", r"\errmessage{File `amsmath.sty' not found}")
    assert (
        at_home.json("exec", "-r", "latex", "-c", code)["result"]["failure"]["category"] == "USER_CODE_ERROR"
    )


def test_common_documents_find_their_packages_and_fonts(at_home: AtHome) -> None:
    packages = "booktabs,microtype,mathtools,lmodern,geometry,graphicx,hyperref,xcolor,listings,natbib"
    code = (
        rf"\documentclass{{article}}\usepackage[T1]{{fontenc}}\usepackage{{{packages}}}\begin{{document}}"
        r"\fontfamily{ptm}\selectfont Times \end{document}"
    )
    done = at_home("exec", "-r", "latex", "-c", code, "-o", "made.pdf", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["-shell-escape.tex", "a b#c%.tex", "&latex.tex"])
def test_a_file_is_set_whatever_its_name_means_to_tex(at_home: AtHome, name: str) -> None:
    folder = at_home.cwd / "folder"
    folder.mkdir()
    (folder / name).write_text(r"\documentclass{article}\begin{document}right\end{document}")
    for module in ("re", "subprocess", "glob", "shutil"):  # the driver imports its own
        (folder / f"{module}.py").write_text("raise SystemExit(99)")
    done = at_home("exec", "-r", "latex", "folder", "--entrypoint", f"./{name}", "-o", "made.pdf", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    assert text_of(at_home.cwd / "made.pdf") == "right 1"


def test_a_parameter_that_tex_would_not_see_is_refused(at_home: AtHome) -> None:
    failed = at_home.json("exec", "-r", "latex", "-c", "x", "-p", "fromat=png")
    assert "payload.parameters.fromat: LaTeX has no use for it" in str(failed)


def test_tex_starts_no_shell(at_home: AtHome) -> None:
    code = r"\immediate\write18{echo hacked > hacked.txt} x"
    found = at_home.json("exec", "-r", "latex", "-c", code)["result"]
    assert [one["name"] for one in found["artifacts"]] == ["output.svg"]
