"""The command line: what it leaves behind, what its JSON holds, and how it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest

xarray = pytest.importorskip("xarray")
for package in ("typer", "rich", "zarr", "matplotlib"):
    pytest.importorskip(package)

import relujax as rj
from relujax import runs
from relujax.cli import _repeat_option, _students, main

POINT_KEYS = {"name", "isotropy", "loss", "count", "rate", "gradient_norm", "index", "min_eigenvalue", "max_eigenvalue"}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def refused(result, *fragments):
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err


def test_census_leaves_a_table_figures_data_and_json(call, tmp_path):
    code, out, err = call("census", "--neurons", 3, 4, "--inits", 20, "--out", "run", "--json", "census.json")
    assert (code, err) == (0, "")
    assert "global" in out
    assert "run" in out
    found = json.loads((tmp_path / "census.json").read_text())
    assert [part["neurons"] for part in found] == [3, 4]
    assert set(found[0]) == {
        "neurons",
        "students",
        "dim",
        "inits",
        "seed",
        "global",
        "unresolved",
        "minima",
        "others",
        "seconds",
    }
    assert set(found[1]["minima"][0]) == POINT_KEYS
    assert found[1]["global"] == found[1]["minima"][0]["count"] == 20
    low, high = found[1]["minima"][0]["rate"]
    # Wilson's interval for 20 of 20: 20/(20 + z²) to 1
    np.testing.assert_allclose((low, high), (20 / (20 + 1.959964**2), 1.0), rtol=1e-6)
    assert len(list((tmp_path / "run").glob("*.png"))) == 6
    data = runs.open_run(tmp_path / "run")
    assert set(data) == {"k003", "k004"}
    settings = json.loads(data["k004"].attrs["settings"])
    assert settings["arguments"] == {"neurons": [3, 4], "students": "K", "inits": 20, "seed": 0}
    assert {"jax", "diffrax", "python"} <= set(settings["versions"])
    assert all(name in data["k004"].coords for name in data["k004"].dims)
    assert xarray.open_datatree(tmp_path / "run" / "data.zarr", engine="zarr", consolidated=False)["k003"].sizes["start"] == 20
    # the data are enough to compute the loss again
    weights = data["k004"]["weights"].values[0]
    net = rj.ShallowReLU(weights, data["k004"]["amplitudes"].values[0], train=("weights",))
    np.testing.assert_allclose(rj.problems.orthonormal_teacher(4)(net), data["k004"]["loss"].values[0], rtol=0, atol=1e-14)


def test_flow_on_a_csv_written_by_hand(call, tmp_path):
    (tmp_path / "mine.csv").write_text("x,y\n-1.0,0.5\n0.0,0.1\n0.4,0.8\n1.0,-0.3\n")
    (tmp_path / "flow-001").mkdir()
    code, out, err = call("flow", "mine.csv", "--width", 8, "--inits", 6, "--scale", 0.1, "--json", "flow.json")
    assert (code, err) == (0, "")
    assert "4 data with 1 inputs" in out
    found = json.loads((tmp_path / "flow.json").read_text())
    assert {"status", "loss", "gradient_norm", "time"} == set(found["networks"])
    assert len(found["networks"]["loss"]) == 6
    assert sum(point["count"] for point in found["minima"] + found["others"]) == 6
    assert set((found["minima"] + found["others"])[0]) >= POINT_KEYS
    # the first number that is free
    assert (tmp_path / "flow-002" / "flow-fit.png").stat().st_size > 5000
    assert list((tmp_path / "flow-001").iterdir()) == []


def test_flow_on_the_bundled_breast_cancer_data(call, tmp_path):
    pytest.importorskip("sklearn")
    argv = ("flow", "breast-cancer", "--width", 5, "--inits", 2, "--end-time", 5, "--no-bias", "--out", "run")
    code, out, err = call(*argv)
    assert (code, err) == (0, "")
    assert "standardised" in out
    assert (tmp_path / "run" / "flow-loss.png").exists()
    assert "biases" not in runs.open_run(tmp_path / "run")["flow"]


def test_spectrum_at_the_global_minimum(call, tmp_path):
    np.savez(tmp_path / "point.npz", weights=np.eye(6))
    code, out, err = call("spectrum", "point.npz", "--json", "spectrum.json")
    assert (code, err) == (0, "")
    assert "minimum" in out
    found = json.loads((tmp_path / "spectrum.json").read_text())
    assert set(found) == {"loss", "gradient_norm", "status", "index", "nullity", "eigenvalues"}
    assert found["status"] == "minimum"
    assert sum(count for _, count in found["eigenvalues"]) == 36
    value, count = found["eigenvalues"][0]
    np.testing.assert_allclose(value, 0.25 - 1 / (2 * np.pi), rtol=0, atol=1e-13)
    assert count == 15


@pytest.mark.parametrize(
    ("arrays", "loss"),
    [
        # one neuron along the first of two teachers: ½ φ(e₂, e₂), and ½ 9 φ(e₂, e₂) when the second has amplitude 3
        ({"weights": np.eye(1, 2)}, 0.25),
        ({"weights": np.eye(1, 2), "teacher_amplitudes": np.array([1.0, 3.0])}, 2.25),
        ({"weights": np.eye(1, 2), "teacher_weights": np.eye(1, 2)}, 0.0),
        (
            {
                "weights": np.eye(1, 2),
                "amplitudes": np.array([2.0]),
                "train": np.array(["amplitudes"]),
                "teacher_weights": np.eye(1, 2),
            },
            0.25,
        ),
        ({"weights": np.eye(1, 2), "biases": np.array([0.5]), "inputs": np.eye(2), "targets": np.array([1.5, 2.5])}, 1.0),
    ],
)
def test_spectrum_of_points_described_in_several_ways(call, tmp_path, arrays, loss):
    np.savez(tmp_path / "point.npz", **arrays)
    code, _, err = call("spectrum", "point.npz", "--json", "spectrum.json")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "spectrum.json").read_text())
    np.testing.assert_allclose(found["loss"], loss, rtol=0, atol=1e-15)
    assert sum(count for _, count in found["eigenvalues"]) == (1 if "train" in arrays else 2)


def test_spectrum_of_an_empirical_loss_says_what_its_hessian_is(call, tmp_path):
    np.savez(tmp_path / "point.npz", weights=np.eye(2), amplitudes=np.ones(2), inputs=np.eye(2), targets=np.ones(2))
    code, out, _ = call("spectrum", "point.npz")
    assert code == 0
    assert "almost-everywhere" in out


@pytest.mark.parametrize(
    ("argv", "fragments"),
    [
        (("census", "--neurons", 0), ("--neurons is 0",)),
        (("census", "--neurons", 4, "--inits", 0), ("--inits is 0",)),
        (("census", "--neurons", 4, "--inits", "many"), ("--inits is 'many'", "whole number")),
        (("census", "--neurons", 4, "six"), ("--neurons is 'six'",)),
        (("census", "--neurons", 4, 4), ("--neurons names 4 twice",)),
        (("census", "--neurons", 4, "--seed", -1), ("--seed is -1",)),
        (("census", "--neurons", 4, "--seed", 2**70), (f"--seed is {2**70}",)),
        (("census", "--neurons", 4, "--out", "good.csv/run"), ("good.csv is a file",)),
        (("census", "--neurons", 4, "--out", "settled", "--force"), ("settled exists and holds no run",)),
        (("census", "--neurons", 4, "--students", "K*2"), ("'K*2'", "K+1")),
        (("census", "--neurons", 4, "--students", "K-9"), ("-5 students",)),
        (("census",), ("--neurons",)),
        (("censor",), ("censor",)),
        (("census", "--neurons", 4, "--json", "nowhere/a.json"), ("nowhere",)),
        (("flow", "missing.csv"), ("missing.csv does not exist",)),
        (("flow", "bad.csv"), ("line 3", "'x'")),
        (("flow", "good.csv", "--width", 0), ("--width is 0",)),
        (("flow", "good.csv", "--scale", -1), ("--scale is -1",)),
        (("flow", "good.csv", "--scale", "nan"), ("--scale is nan",)),
        (("flow", "good.csv", "--end-time", "inf"), ("--end-time is inf",)),
        (("flow", "good.csv", "--gradient-norm", 0), ("--gradient-norm is 0.0",)),
        (("flow", "good.csv", "--tolerance", -1e-3), ("--tolerance is -0.001",)),
        (("flow", "good.csv", "--tolerance", 2), ("--tolerance is 2.0",)),
        (("flow", "good.csv", "--init", "magic"), ("'magic'", "balanced")),
        (("flow", "good.csv", "--out", "taken"), ("taken exists",)),
        (("flow", "good.csv", "--out", "good.csv"), ("is a file",)),
        (("spectrum", "missing.npz"), ("missing.npz does not exist",)),
        (("spectrum", "good.csv"), ("NPZ",)),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(call, tmp_path, argv, fragments):
    (tmp_path / "good.csv").write_text("1,2\n3,4\n")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\nx,4\n")
    for folder, file in (("taken", "thesis.tex"), ("settled", "settings.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    refused(call(*argv), *fragments)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_run_is_replaced_only_when_forced(call, tmp_path):
    argv = ("census", "--neurons", 3, "--inits", 20, "--out", "run")
    assert call(*argv)[0] == 0
    refused(call(*argv), "already holds a run", "--force")
    (tmp_path / "run" / "notes.txt").write_text("precious")
    (tmp_path / "run" / "k009-ends.png").write_text("of the earlier run")
    assert call(*argv, "--force", "--seed", 5)[0] == 0
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["arguments"]["seed"] == 5
    assert (tmp_path / "run" / "notes.txt").read_text() == "precious"
    assert len(list((tmp_path / "run").glob("*.png"))) == 3


def test_an_interrupt_keeps_what_is_done(call, tmp_path, monkeypatch):
    # the attribute of the package is the function; the module is behind it
    module = sys.modules["relujax.census"]
    original = module.census

    def interrupted_at_four(loss, *args, **kwargs):
        if loss.teacher.width == 4:
            raise KeyboardInterrupt
        return original(loss, *args, **kwargs)

    monkeypatch.setattr(module, "census", interrupted_at_four)
    code, _, err = call("census", "--neurons", 3, 4, "--inits", 20, "--out", "run")
    assert code == 1
    assert "what was finished is in run" in err
    assert set(runs.open_run(tmp_path / "run")) == {"k003"}
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["finished"] is False


def test_unreadable_and_foreign_run_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        runs.open_run(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no run"):
        runs.open_run(tmp_path)
    # the settings of an editor, not those of a run
    (tmp_path / "settings.json").write_text('{"command": "census"}')
    with pytest.raises(ValueError, match="holds no run"):
        runs.open_run(tmp_path)
    runs.Run("census", {}, out=tmp_path / "run").finish([])
    (tmp_path / "run" / "data.zarr" / "k003").mkdir(parents=True)
    with pytest.raises(ValueError, match="cannot be read"):
        runs.open_run(tmp_path / "run")


@pytest.mark.parametrize("argv", [(), ("study",)])
def test_a_bare_command_shows_its_help_line_by_line(call, argv):
    code, out, err = call(*argv)
    assert (code, out) == (2, "")
    assert err.count("\n") > 5
    assert "Commands" in err


def test_several_values_after_one_option():
    assert _repeat_option(["census", "--neurons", "6", "8", "--inits", "5"], "--neurons") == [
        "census", "--neurons", "6", "--neurons", "8", "--inits", "5",
    ]  # fmt: skip
    assert _repeat_option(["census", "--neurons"], "--neurons") == ["census", "--neurons"]
    assert [_students(text, 6) for text in ("K", "k+2", "K-1", "9")] == [6, 8, 5, 9]


def test_as_a_program_without_a_terminal(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "relujax", "census", "--neurons", "3", "--inits", "20"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0
    assert run.stderr == ""
    assert "global" in run.stdout
    assert (tmp_path / "census-001" / "summary.json").exists()
    version = subprocess.run([sys.executable, "-m", "relujax", "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"relujax {rj.__version__}\n"


def test_one_teacher_and_one_student_are_counted_in_the_singular(call):
    code, out, err = call("census", "--neurons", 1, "--inits", 1, "--out", "one")
    assert code == 0, err
    assert "k = 1 teacher, 1 student, 1 start" in out
