"""Verdicts of thousands of sampled points against enumeration and descent that share no code with them."""

import collections

import numpy as np
import pytest
from sampled_points import SHAPES, draw, falls_along, kind_of, lowest_nearby, transformed

import relujax as rj

GROUPS = {"minimum": "minimum", "kink minimum": "minimum", "not critical": "falls", "descent point": "falls", "saddle": "saddle"}


def judge(point):
    net = rj.ShallowReLU(point.weights, point.amplitudes, point.biases, train=point.train)
    return rj.classify(rj.EmpiricalLoss(point.inputs, point.targets), net)


def check(numbers):
    met = collections.Counter()
    for number in numbers:
        r = np.random.default_rng(number)
        point = draw(r, SHAPES[number % len(SHAPES)])
        verdict, kind = judge(point), kind_of(point)
        assert GROUPS[verdict.words] == kind.word, (number, verdict.words, kind.word)
        if kind.word == "minimum":
            assert lowest_nearby(r, point) > -1e-7, number
        else:
            assert falls_along(point, kind), number
        other = judge(transformed(r, point))
        for name in ("words", "index", "nullity"):
            assert getattr(other, name) == getattr(verdict, name), (number, name, verdict.words, other.words)
        met[verdict.words] += 1
    return met


def test_verdicts_of_random_points_are_those_of_enumeration_and_descent():
    met = check(range(168))
    assert min(met[word] for word in GROUPS) >= 3


@pytest.mark.slow
def test_verdicts_of_ten_thousand_random_points():
    met = check(range(10_000))
    assert min(met[word] for word in GROUPS) >= 200
