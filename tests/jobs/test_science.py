"""Jobs in `science`, the shipped environment: figures and tables become artifacts, and the same ones every time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from praxis_sdk.jobs.artifacts import ArtifactKind, ArtifactStore
from praxis_sdk.jobs.environments.store import EnvironmentStore
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.results import ResultStore
from tests.jobs.conftest import payload

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def science() -> EnvironmentStore:
    """Build the environment once for all test runs of this checkout; its version is made of its content."""
    store = EnvironmentStore(ROOT / ".cache" / "test-home")
    store.ensure("science")
    return store


@pytest.fixture
async def executor(science: EnvironmentStore, tmp_path: Path) -> AsyncIterator[JobExecutor]:
    """Make an executor that finds it."""
    made = JobExecutor(ArtifactStore.open(tmp_path / "artifacts"), science, ResultStore(tmp_path))
    yield made
    await made.close()


PLOT = """
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
figure, axes = plt.subplots()
axes.plot(np.sin(np.linspace(0, 6, 50)), label="größe")
axes.scatter(np.random.rand(20), np.random.rand(20))
axes.legend()
for kind in ("png", "svg", "pdf"):
    figure.savefig(f"plot.{kind}")
{"table": pd.DataFrame({"a": np.random.rand(3)}), "names": list({"x", "y", "z"})}
"""


@pytest.mark.timeout(300)
async def test_fifty_runs_leave_the_same_artifacts(executor: JobExecutor) -> None:
    seen = set()
    for _ in range(50):
        result = await executor.run(payload(code=PLOT, env="science", fresh=True))
        assert result.succeeded, result.failure
        seen.add(tuple((one.name, one.digest) for one in result.artifacts))
    assert len(seen) == 1
    assert [name for name, _ in next(iter(seen))] == ["plot.pdf", "plot.png", "plot.svg", "result-table.csv"]


@pytest.mark.timeout(300)
async def test_what_is_left_open_or_returned_becomes_an_artifact(executor: JobExecutor) -> None:
    code = (
        "import matplotlib.pyplot as plt, pandas as pd\n"
        "plt.plot([1, 2]); plt.figure(); plt.plot([2, 1])\n"
        "pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\n"
    )
    result = await executor.run(payload(code=code, env="science"))
    assert [(one.name, one.kind) for one in result.artifacts] == [
        ("figure-1.png", ArtifactKind.PLOT),
        ("figure-2.png", ArtifactKind.PLOT),
        ("result.csv", ArtifactKind.DATASET),
    ]
    assert result.outputs == {"artifact": "result.csv"}
    assert await executor._artifacts.read(result.artifacts[2].digest) == b",a,b\n0,1,x\n1,2,y\n"
    assert result.stderr.text == "", "nothing is built or complained about on the way"


SHOWS = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3]); plt.show()
print(plt.get_fignums())
plt.bar([1, 2], [3, 4]); plt.savefig("own.png"); plt.show()
plt.plot([3, 2]); plt.show(block=False)
print(len(plt.gcf().axes[0].lines), plt.get_fignums())
plt.close("all")
plt.plot([1]); plt.figure(); plt.gcf().savefig("last.png")
"""


@pytest.mark.timeout(300)
async def test_each_show_ends_its_figures_and_none_is_saved_twice(executor: JobExecutor) -> None:
    result = await executor.run(payload(code=SHOWS, env="science"))
    assert result.succeeded, result.failure
    assert result.stdout.text == "[]\n1 [1]\n"
    assert result.stderr.text == ""
    names = ["figure-1.png", "figure-2.png", "figure-3.png", "last.png", "own.png"]
    assert [one.name for one in result.artifacts] == names
    assert len({one.digest for one in result.artifacts}) == len(names), "each shows something else"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("np.datetime64('2024-01-01T00:00', 'ns')", "2024-01-01T00:00:00.000000000"),
        ("np.array(['2024-01-01', 'NaT'], dtype='datetime64[D]')", ["2024-01-01", None]),
        ("np.array([(1, 2.5)], dtype=[('a', int), ('b', float)])", [{"a": 1, "b": 2.5}]),
        ("np.finfo(np.longdouble).eps", 1.0842021724855044e-19),
        ("[pd.NA, pd.NaT, pd.Timestamp('2024-01-02'), pd.Timedelta('1D')]",
         [None, None, "2024-01-02T00:00:00", "PT86400S"]),
        ("pd.Index([1, 2])", [1, 2]),
        ("np.ma.array([1, 2], mask=[0, 1])", [1, None]),
    ],
)  # fmt: skip
async def test_values_of_libraries_lose_nothing(executor: JobExecutor, code: str, value: object) -> None:
    result = await executor.run(payload(code=f"import numpy as np, pandas as pd\n{code}", env="science"))
    assert result.succeeded, result.failure
    assert result.outputs == value


@pytest.mark.timeout(300)
async def test_a_last_line_of_a_library_does_not_decide_success(executor: JobExecutor) -> None:
    code = (
        "import pandas as pd, matplotlib.pyplot as plt\n"
        "plt.plot([1, 2]); pd.DataFrame({'x': [1], 'g': ['a']}).groupby('g')"
    )
    result = await executor.run(payload(code=code, env="science"))
    assert result.succeeded, result.failure
    assert isinstance(result.outputs, dict)
    assert "DataFrameGroupBy" in str(result.outputs["repr"])
    assert [one.name for one in result.artifacts] == ["figure-1.png"]


@pytest.mark.timeout(300)
async def test_numbers_of_numpy_are_plain_json(executor: JobExecutor) -> None:
    code = "import numpy as np\n{'a': np.float64(1.5), 'b': np.arange(3), 'c': np.nan, np.int64(4): np.bool_(True)}"
    result = await executor.run(payload(code=code, env="science"))
    assert result.outputs == {"a": 1.5, "b": [0, 1, 2], "c": None, "4": True}


@pytest.mark.timeout(300)
async def test_the_shipped_example_runs(executor: JobExecutor) -> None:
    folder = ROOT / "examples" / "science"
    data = (folder / "mauna_loa_co2.csv").read_text()
    job = payload(code=(folder / "fit_co2.py").read_text(), env="science", inputs={"co2": {"text": data}})
    result = await executor.run(job)
    assert result.succeeded, result.failure
    assert isinstance(result.outputs, dict)
    assert result.outputs["observations"] == 2225
    assert {one.name for one in result.artifacts} == {"co2.png", "co2.svg"}


FOREIGN = """
import warnings
warnings.simplefilter("error")  # matplotlib warns of each character that it draws as a box
import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(4, 2))
axes.set_title("中文 日本語 한국어 \\U0001f680\\U0001f600")
for kind in ("png", "svg", "pdf"):
    figure.savefig(f"plot.{kind}")
plt.close()
"""


@pytest.mark.timeout(300)
async def test_titles_in_chinese_japanese_and_korean_and_emoji_are_no_boxes(executor: JobExecutor) -> None:
    result = await executor.run(payload(code=FOREIGN, env="science", fresh=True))
    assert result.succeeded, result.failure
    assert sorted(one.name for one in result.artifacts) == ["plot.pdf", "plot.png", "plot.svg"]
