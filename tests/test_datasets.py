"""Loading data of one's own: what is read, and what is refused in one sentence."""

import numpy as np
import pytest

import relujax as rj
from relujax.datasets import load
from relujax.points import load_point


def write(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a,b,y\n1,2,3\n4,5,6\n",
        "1,2,3\n4,5,6",
        "\ufeffa,b,y\r\n1,2,3\r\n4,5,6\r\n\r\n",
        ' a , b , y \n 1 , 2 , 3 \n4,5,"6"\n\n',
    ],
)
def test_csv_in_several_dialects(tmp_path, text):
    data = load(write(tmp_path, text))
    np.testing.assert_array_equal(data.inputs, [[1, 2], [4, 5]])
    np.testing.assert_array_equal(data.targets, [3, 6])
    assert data.features in (("a", "b"), ("x1", "x2"))
    assert isinstance(data.loss(), rj.EmpiricalLoss)


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.arange(6).reshape(3, 2), targets=[True, False, True])
    data = load(path)
    np.testing.assert_array_equal(data.targets, [1, 0, 1])
    assert data.inputs.dtype == float


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes"])
def test_bundled_sets_are_standardised_and_say_so(name):
    pytest.importorskip("sklearn")
    data = load(name)
    np.testing.assert_allclose(data.inputs.mean(axis=0), 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(data.inputs.std(axis=0), 1, rtol=0, atol=1e-12)
    assert "standardised" in data.description
    assert data.inputs.shape == {"breast-cancer": (569, 30), "diabetes": (442, 10)}[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\nx,4\n", "line 3, column 1, holds 'x'"),
        ("1,2\n3\n", "line 2, has 1 cells"),
        ("1,nan\n", "line 1, column 2, holds nan"),
        ("1,2\n3,inf\n", "line 2, column 2, holds inf"),
        ("", "is empty"),
        ("a,b\n", "no data"),
        ("1\n2\n", "1 column"),
        ("1;2\n3;4\n", "separated by commas"),
        ("1_0,2\n", "holds '1_0'"),
        ("1,1e200\n", "square overflows"),
        ("1,2\n3,\n", "line 2, column 2, holds ''"),
        (b"\xff\xfe1,2", "UTF-8"),
    ],
)
def test_csv_refusals_name_the_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        load(write(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.ones((2, 2))}, "named targets"),
        ({"x": np.ones(2)}, "holds x"),
        ({"inputs": np.ones(2), "targets": np.ones(2)}, "shape \\(2,\\)"),
        ({"inputs": np.ones((2, 0)), "targets": np.ones(2)}, "shape \\(2, 0\\)"),
        ({"inputs": np.ones((2, 2)), "targets": np.ones(3)}, "shape \\(3,\\)"),
        ({"inputs": np.array([["a", "b"]]), "targets": np.ones(1)}, "numbers are needed"),
        ({"inputs": np.array([[1.0, np.inf]]), "targets": np.ones(1)}, "hold inf at \\(0, 1\\)"),
        ({"inputs": np.array([[{}]], dtype=object), "targets": np.ones(1)}, "plain arrays"),
    ],
)
def test_npz_refusals(tmp_path, arrays, message):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_other_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.csv does not exist"):
        load(tmp_path / "missing.csv")
    with pytest.raises(ValueError, match="ends in '.txt'"):
        load(write(tmp_path, "1,2", "data.txt"))
    with pytest.raises(ValueError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(ValueError, match="NPZ"):
        load(write(tmp_path, "no archive", "data.npz"))
    np.savez(tmp_path / "whole.npz", inputs=np.ones((2, 2)), targets=np.ones(2))
    np.save(tmp_path / "array.npy", np.ones(2))
    for damaged in ((tmp_path / "whole.npz").read_bytes()[:200], (tmp_path / "array.npy").read_bytes()):
        for read in (load, load_point):
            with pytest.raises(ValueError, match=r"data\.npz cannot be read as an NPZ file"):
                read(write(tmp_path, damaged, "data.npz"))


def test_a_point_with_everything(tmp_path):
    path = tmp_path / "point.npz"
    np.savez(
        path, weights=np.ones((2, 3)), amplitudes=np.ones(2), biases=np.zeros(2), train=["weights", "biases"],
        inputs=np.ones((4, 3)), targets=np.ones(4),
    )  # fmt: skip
    loss, net = load_point(path)
    assert isinstance(loss, rj.EmpiricalLoss)
    assert net.train == ("weights", "biases")


def test_a_bare_point_has_unit_amplitudes_and_the_orthonormal_teacher(tmp_path):
    path = tmp_path / "point.npz"
    np.savez(path, weights=np.eye(3))
    loss, net = load_point(path)
    assert net.train == ("weights",)
    assert float(loss(net)) == 0.0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w": np.eye(2)}, "named weights"),
        ({"weights": np.eye(2), "colour": np.ones(1)}, "named colour"),
        ({"weights": np.ones(3)}, "2 axes"),
        ({"weights": np.eye(2), "amplitudes": np.ones(3)}, "amplitudes have shape"),
        ({"weights": np.eye(2), "inputs": np.ones((1, 2))}, "inputs alone"),
        ({"weights": np.eye(2), "inputs": np.ones((1, 3)), "targets": np.ones(1)}, "3 columns"),
        ({"weights": np.eye(2), "teacher_weights": np.ones((1, 3))}, "3 columns"),
        ({"weights": np.array([[np.nan, 1.0]])}, "hold nan"),
        ({"weights": np.eye(2), "train": ["weight"]}, "train names 'weight'"),
        ({"weights": np.eye(2), "train": ["biases"]}, "leaves no parameter"),
        ({"weights": np.eye(2), "train": np.zeros(0, str)}, "leaves no parameter"),
        ({"weights": np.eye(2), "teacher_amplitudes": np.ones(3)}, "teacher_amplitudes have shape"),
        ({"weights": np.eye(2), "teacher_weights": np.eye(2), "inputs": np.eye(2), "targets": np.ones(2)}, "either over data"),
    ],
)
def test_point_refusals(tmp_path, arrays, message):
    path = tmp_path / "point.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        load_point(path)
