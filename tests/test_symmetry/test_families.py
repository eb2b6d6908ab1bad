"""Families at few, many and fractional numbers of neurons, against 34 digits, series, and dense Hessians."""

import jax.numpy as jnp
import numpy as np
import pytest

import relujax as rj
from relujax.hessian import dense_eigenvalues
from relujax.symmetry import family
from relujax.theory import closed_eigenvalues

# at k = 10: loss and coordinates from Newton's method with 34 digits, eigenvalues from the blocks of the Hessian (2008.01805)
TEN = {
    "A": (
        0.07663666202107795,
        [-0.80030403446280, 0.19847652249032],
        {
            "triv": [1.432578635709, 3.038206572467],
            "std_0": [0.066333270476, 0.176189118683, 2.658279542686],
            "sym_0": [0.336611714289],
            "alt_0": [0.017488338597],
        },
    ),
    "II": (
        0.01870219458560697,
        [-0.69903681749379, 1.00435482326232, 0.12604236084342, 0.18236775578872, -0.01581192580575],
        {
            "triv": [0.079093306089, 0.216165561703, 1.454087817364, 2.657945754427, 3.096356178558],
            "std_1": [0.031964027646, 0.085186257136, 0.239215084326, 0.363740595291, 2.699543077834],
            "sym_1": [0.380175145368],
            "alt_1": [0.062853592556],
        },
    ),
    "M": (
        0.03532688031892806,
        [-0.72984043880784, 0.99756356131431, 0.15326470366358, 0.13551927910570, 0.19101234900260, -0.03741234270028],
        {
            "triv": [0.072614853920, 0.201668698082, 0.340700257230, 1.450391701510, 2.639884464763, 3.078784185464],
            "std_0": [0.021228397853, 0.081499219143, 0.214517192911, 2.675784036682],
            "std_0xstd_1": [0.040654799038, 0.376851904124],
            "std_1": [0.015992078215, 0.081931304011, 0.221551745112, 0.339204967884, 2.686440633363],
            "sym_1": [0.366850689756],
            "alt_1": [0.050521205445],
        },
    ),
}
# losses to 20 digits by Newton's method in the fixed space
LOSSES = {
    ("II", 6): 0.025080581002463010419,
    ("II", 16): 0.013399845063282179046,
    ("II_2", 16): 0.025884788498842863837,
    ("II", 20): 0.01127558194758173255,
    ("M", 20): 0.021922973466239219473,
}


@pytest.mark.parametrize("name", TEN)
def test_the_table_at_ten_neurons(name):
    loss, coordinates, spectrum = TEN[name]
    one = family(name, 10)
    np.testing.assert_allclose(one.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(one.coordinates, coordinates, atol=2e-14)
    assert one.gradient_norm < 1e-15
    assert {part.name for part in one.spectrum} == set(spectrum)
    for part in one.spectrum:
        np.testing.assert_allclose(part.eigenvalues, spectrum[part.name], atol=1e-12)
    assert sum(part.dimension * len(part.eigenvalues) for part in one.spectrum) == 100
    assert one.index == 0
    assert one.min_eigenvalue == min(part.eigenvalues[0] for part in one.spectrum)


@pytest.mark.parametrize(("name", "k"), LOSSES)
def test_losses_to_the_last_digit(name, k):
    np.testing.assert_allclose(family(name, k).loss, LOSSES[name, k], rtol=1e-14)


def test_the_other_families_at_ten_neurons():
    """Losses that Newton's method with 34 digits gives for II+ and, by a search in fixed spaces, for I and I_8."""
    plus = family("II+", 10)
    np.testing.assert_allclose(plus.loss, 0.0178926551394, atol=1e-12)
    assert plus.weights.shape == (11, 10)
    assert plus.index == 0
    np.testing.assert_allclose(family("I", 10).loss, 0.072056706993, atol=1e-12)
    np.testing.assert_allclose(family("I_(8,2)", 10).loss, 0.066993103946, atol=1e-12)
    assert family("global", 10).loss == 0


@pytest.mark.slow
def test_the_family_of_three_blocks_at_twenty_neurons():
    """Loss of nine of the thousand runs published with Safran and Shamir 2018, given there as 0.059753."""
    one = family("I_(6,1,13)", 20)
    np.testing.assert_allclose(one.loss, 0.059753, atol=5e-7)
    assert one.index == 0
    exact = dense_eigenvalues(
        rj.problems.orthonormal_teacher(20), rj.ShallowReLU(jnp.asarray(one.weights), jnp.ones(20), train=("weights",))
    )
    mine = np.concatenate([np.repeat(part.eigenvalues, int(part.dimension)) for part in one.spectrum])
    np.testing.assert_allclose(np.sort(mine), exact, atol=1e-12)


@pytest.mark.parametrize("k", [1e4, 1e6])
def test_losses_and_eigenvalues_follow_their_series(k):
    """Leading terms by Richardson extrapolation with 70 digits; what is left is of the next order in h = k^(−1/2)."""
    h, pi = k**-0.5, np.pi
    one, all_flipped = family("II", k), family("A", k)
    series = (0.5 - 2 / pi**2) * h**2 - 32 / (3 * pi**4) * h**3 - 1.37714680074381 * h**4
    assert abs(one.loss - series) < 2 * h**5 + 1e-21
    series = (0.5 - 1 / pi) - 4 / (3 * pi) * h + (-0.5 + 3 / pi - 2 / pi**2) * h**2 + (58 / (15 * pi) - 8 / pi**2) * h**3
    assert abs(all_flipped.loss - series + 1.27128895586543 * h**4) < 2 * h**5 + 1e-15
    values = {part.name: part.eigenvalues for part in one.spectrum}
    noise = 1e-15 * k
    assert abs(values["alt_1"][0] - (0.25 - 1 / (2 * pi) - h**2 / pi)) < h**4 + noise
    assert abs(values["std_1"][0] - (0.25 - 1 / (2 * pi) - h / pi**2)) < 2 * h**2 + noise
    assert abs(values["std_1"][-1] - (k / 4 + 0.25)) < h + noise
    assert abs(values["triv"][2] - (k / (2 * pi) - 0.34713954156292)) < 2 * h + noise
    assert abs(values["triv"][-1] - (k / 4 + 0.84713954156292)) < 2 * h + noise
    assert one.weights is None
    assert one.index == 0
    assert sum(part.dimension * len(part.eigenvalues) for part in one.spectrum) == k**2


@pytest.mark.parametrize("k", [6, 30])
@pytest.mark.parametrize("name", ["A", "II", "M"])
def test_spectra_and_closed_forms_agree_with_the_dense_hessian(name, k):
    one = family(name, k)
    loss = rj.problems.orthonormal_teacher(k)
    net = rj.ShallowReLU(jnp.asarray(one.weights), jnp.ones(k), train=("weights",))
    assert float(jnp.linalg.norm(loss.gradient(net).weights)) < 1e-13
    np.testing.assert_allclose(float(loss(net)), one.loss, atol=1e-14)
    exact = dense_eigenvalues(loss, net)
    mine = np.concatenate([np.repeat(part.eigenvalues, int(part.dimension)) for part in one.spectrum])
    np.testing.assert_allclose(np.sort(mine), exact, atol=1e-12 * exact[-1])
    places = one.space.classes.places()[0]
    off = np.where(places < 0, 0.0, one.coordinates[places])
    closed = closed_eigenvalues(one.blocks, one.coordinates[: len(one.blocks)].tolist(), off.tolist())
    compared = [part for part in one.spectrum if part.name in closed]
    assert len(compared) >= 2
    for part in compared:
        np.testing.assert_allclose(part.eigenvalues, closed[part.name], atol=1e-13)


@pytest.mark.parametrize(("name", "k"), [("II", 3), ("II", 4), ("A", 3), ("II_2", 5)])
def test_groups_of_one_two_and_three_have_all_their_eigenvalues(name, k):
    one = family(name, k)
    assert sum(part.dimension * len(part.eigenvalues) for part in one.spectrum) == k * k
    net = rj.ShallowReLU(jnp.asarray(one.weights), jnp.ones(k), train=("weights",))
    exact = dense_eigenvalues(rj.problems.orthonormal_teacher(k), net)
    mine = np.concatenate([np.repeat(part.eigenvalues, int(part.dimension)) for part in one.spectrum])
    np.testing.assert_allclose(np.sort(mine), exact, atol=1e-13)
    assert one.index == np.sum(exact < -1e-9)


def test_members_with_few_neurons_are_those_followed_from_many():
    """II_5 from k = 8 on, where the leading terms lie nearer to other points of the same fixed space: one smooth curve."""
    chain = [family("II_5", k) for k in np.linspace(8.0, 20.0, 49)]
    points = np.array([one.coordinates for one in chain])
    assert np.max(np.abs(np.diff(points, axis=0))) < 0.08
    assert np.max(np.abs(np.diff(points, n=2, axis=0))) < 0.03


def test_names_are_read_as_they_are_written():
    assert family("M", 8).name == family("II_q", 8, q=2).name == family("II_2", 8).name == "II_2"
    assert family("II_(1,7)", 8).name == "II"
    assert family("I_q", 8, q=7).name == family("I_7", 8).name == "I"
    assert family("II", 7.5).k == 7.5
    assert family("II", 7.5).weights is None


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("B", 10), "'B'"),
        (("A_3", 10), "'A_3'"),
        (("II_q", 10), "no q"),
        (("II_3", 10, 4), "q is 4"),
        (("I_2", 10), "3 <= q"),
        (("II_12", 10), "q is 12"),
        (("I_(4,5)", 10), "would be 6"),
        (("I_(4,2,4)", 10), "choose among"),
        (("II", 0.5), "k is 0.5"),
        (("II", float("nan")), "k is nan"),
        (("A", 2), "at least 3"),
    ],
)
def test_mistakes_are_told(arguments, fragment):
    with pytest.raises(ValueError, match=fragment.replace("(", r"\(")):
        family(*arguments)


@pytest.mark.parametrize(("name", "k", "loss"), [("I_(50,1,8)", 59, 0.16132738), ("I_(20,1,2)", 23, 0.1412834)])
def test_the_family_of_three_blocks_has_a_saddle_that_lies_across(name, k, loss):
    """Losses of the lowest critical points of this shape among those that 1500 random starts in the fixed space lead to."""
    one = family(name, k)
    np.testing.assert_allclose(one.loss, loss, atol=5e-8)
    assert one.index == 1
    assert one.gradient_norm < 1e-13
    flipped, single, upright = one.coordinates[:3]
    assert flipped < -0.9 < single < 0.3 < 0.9 < upright


def test_no_member_of_three_blocks_is_a_permuted_copy_of_another_family():
    """With few others Newton's method strays to A and I_q with their neurons in another order."""
    found = 0
    for q in (2, 4, 6, 8, 12, 20):
        for m in (1, 2, 3):
            k = q + 1 + m
            one = _member_or_none(f"I_({q},1,{m})", k)
            if one is None:
                continue
            found += 1
            others = [family("A", k), *(_member_or_none("I_q", k, size) for size in range(3, k))]
            assert min(abs(one.loss - other.loss) for other in others if other is not None) > 1e-4
            assert one.coordinates[2] > 0.5
    assert found >= 6


def _member_or_none(name, k, q=None):
    try:
        return family(name, k, q)
    except ValueError:
        return None


def test_a_block_of_between_one_and_two_neurons_has_no_spectrum():
    one = family("M", 3.75)
    assert one.loss > 0
    for name in ("index", "min_eigenvalue", "spectrum"):
        with pytest.raises(ValueError, match="between one and two"):
            getattr(one, name)
