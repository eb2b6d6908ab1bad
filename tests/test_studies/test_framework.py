"""Studies as such: claims, the registry, runs that go on, the command line, and every registered study in quick form."""

import importlib
import io
import json
import re

import jax
import numpy as np
import pytest

for package in ("typer", "rich", "xarray", "zarr", "matplotlib"):
    pytest.importorskip(package)

import rich.console
import xarray

from relujax import report, studies
from relujax.cli import main
from relujax.studies.tian_2017 import STUDY as TIAN

MINE = """
import xarray
from relujax import plot, studies

class Mine(studies.AbstractStudy):
    name, paper, about, cost = "mine", "nobody [0]", "Squares.", "a moment"
    quick, full = {"upto": 3}, {"upto": 4}

    def measure(self, keep, *, upto):
        for n in range(upto):
            keep(f"square{n}", square, n, self.log)
            if n == self.stop_at:
                raise KeyboardInterrupt

    log, stop_at = [], None

    def claims(self, results):
        return [studies.close("squares", [float(p["square"]) for p in results.values()], [0, 1, 4], 0, "arithmetic")]

    def figures(self, results):
        return {"empty": plot.figure()[0]}

def square(n, log):
    log.append(n)
    return xarray.Dataset({"square": n * n})

STUDY = Mine()
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return studies.find(str(path))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run `relujax study …` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main(["study", *(str(word) for word in argv)])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_claims_judge_numbers_words_and_bounds():
    assert studies.close("", 1.0, 1.1, 0.2, "").passed
    assert not studies.close("", [1.0, 2.0], [1.0, 2.5], 0.2, "").passed
    assert not studies.close("", np.nan, 0.0, 1.0, "").passed
    assert studies.equal("", np.array([1, 2]), [1, 2], "").passed
    assert not studies.equal("", "alt", "sym", "").passed
    assert studies.at_most("", 1, 1, "").passed
    assert not studies.at_most("", np.nan, 1, "").passed
    assert not studies.at_least("", 0.9, 1, "").passed


def test_claims_are_plain_json():
    claim = studies.close("x", np.array([1.0, np.inf]), (np.float64(1), 2), np.float64(0.5), "s")
    assert json.loads(json.dumps(claim.as_json(), allow_nan=False)) == {
        "name": "x", "measured": [1.0, None], "expected": [1.0, 2.0], "tolerance": 0.5, "source": "s", "passed": False,
    }  # fmt: skip


def test_a_claim_on_many_values_prints_the_worst():
    many = studies.close("many", np.linspace(0, 1, 44).reshape(4, 11) ** 2, 0.0, 0.1, "here")
    same = studies.equal("same", [[8, 0, 16], [4, 4]], [[8, 0, 16], [4, 4]], "here")
    apart = studies.equal("words", ["a", "b", "c", "d", "e"], ["a", "b", "c", "x", "e"], "here")
    short = studies.equal("short", [1, 2, 3, 4, 5], [1, 2, 3], "here")
    one = studies.close("one", np.array(0.25004), np.array(0.25), 1e-4, "here")
    lost = studies.close("lost", np.array([0.0, 1.0, np.nan, 2.0, 3.0]), 0.0, 5.0, "here")
    console = rich.console.Console(file=io.StringIO(), width=200)
    report.print_claims([many, same, apart, short, one, lost], console)
    rows = {row[1]: row[2:4] for row in (re.split(r"\s{2,}", line) for line in console.file.getvalue().splitlines()[2:])}
    assert rows == {
        "many": ["1.00 (worst of 44)", "0"],
        "same": ["all 5 as expected", "8, 0, 16, 4, …"],
        "words": ["d (worst of 5)", "x"],
        "short": ["5 values", "3 values"],
        "one": ["0.250040", "0.25"],
        "lost": ["nan (worst of 5)", "0"],
    }


def test_studies_hold_no_arrays_before_they_run():
    # a study is imported before it runs, and only running it turns double precision on
    modules = [importlib.import_module(type(studies.find(name)).__module__) for name in studies.names()]
    leaves = [leaf for module in modules for value in vars(module).values() for leaf in jax.tree.leaves(value)]
    assert [leaf for leaf in leaves if isinstance(leaf, jax.Array)] == []


def test_an_interrupted_study_goes_on_where_it_stopped(mine, tmp_path):
    mine.stop_at = 1
    with pytest.raises(KeyboardInterrupt) as stop:
        studies.run(mine, quick=True, out=tmp_path / "run")
    assert stop.value.args == (tmp_path / "run",)
    assert mine.log == [0, 1]
    mine.stop_at = None
    mine.log.clear()
    report = studies.run(mine, quick=True, out=tmp_path / "run")
    assert mine.log == [2]
    assert report.passed
    with pytest.raises(ValueError, match="already holds a run"):
        studies.run(mine, quick=True, out=tmp_path / "run")


def test_another_form_does_not_go_on_with_an_unfinished_run(mine, tmp_path):
    mine.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        studies.run(mine, quick=True, out=tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run"):
        studies.run(mine, out=tmp_path / "run")


def test_a_failed_claim_is_exit_code_1_and_shows_in_the_list(call, mine, tmp_path):
    code, out, err = call("run", "mine.py", "--out", "run", "--json", "mine.json")
    assert code == 1
    assert "1 of 1 claims failed: squares" in err
    assert "The full setting takes a moment." in out
    found = json.loads((tmp_path / "mine.json").read_text())
    assert set(found) == {"study", "claims", "seconds"}
    assert found["claims"][0]["measured"] == [0.0, 1.0, 4.0, 9.0]
    assert (tmp_path / "run" / "empty.png").exists()
    assert studies.last_summary("mine", tmp_path)["claims"] == found["claims"]
    # a folder that is no run does not get in the way
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("[]")
    code, out, _ = call("list")
    assert code == 0
    assert all(name in out for name in studies.names())


def test_a_study_passes_on_the_command_line(call, tmp_path):
    code, _, err = call("run", "tian-2017", "--quick")
    assert (code, err) == (0, "")
    assert list((tmp_path / "tian-2017-001").glob("*.png"))
    assert "last run, quick: 3 claims passed" in call("list")[1]


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (("run", "nothing"), "no study 'nothing'"),
        (("run", "nothing.py"), "nothing.py does not exist"),
        (("run", "empty.py"), "holds no STUDY"),
        (("run", "tian-2017", "--out", "empty.py"), "is a file"),
        (("run", "tian-2017", "--json", "nowhere/x.json"), "nowhere"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(call, tmp_path, argv, fragment):
    (tmp_path / "empty.py").write_text("")
    before = sorted(tmp_path.rglob("*.json"))
    code, _, err = call(*argv)
    assert code == 2
    assert fragment in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*.json")) == before


def test_tian_fails_when_the_teacher_is_not_reached():
    times = np.linspace(0.0, 30.0, 61)
    good = np.exp(-times / 2)[None] * np.linspace(0.1, 1, 4)[:, None]
    results = {"flow": xarray.Dataset({"distance": (["start", "time"], good)})}
    assert all(claim.passed for claim in TIAN.claims(results))
    stuck = {"flow": xarray.Dataset({"distance": (["start", "time"], np.maximum(good, 1e-3))})}
    assert [claim.passed for claim in TIAN.claims(stuck)] == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", studies.names())
def test_every_study_in_quick_form(name, tmp_path):
    study = studies.find(name)
    assert study.name == name
    report = studies.run(study, quick=True, out=tmp_path / "run")
    assert [claim.name for claim in report.claims if not claim.passed] == []
    assert len(report.claims) >= 3
    assert list(report.path.glob("*.png"))
