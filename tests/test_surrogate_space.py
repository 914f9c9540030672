"""Bounds of all kinds as the unit cube, and the parts of the search that are NumPy alone."""

import numpy as np
import pytest

from keras_multiweight.surrogate import Categorical, Integer, Real
from keras_multiweight.surrogate.acquisitions import ACQUISITIONS
from keras_multiweight.surrogate.frames import denormalised, normalised
from keras_multiweight.surrogate.members import groups
from keras_multiweight.surrogate.pool import BETWEEN
from keras_multiweight.surrogate.regions import MEMORY, SMALLEST, Niches
from keras_multiweight.surrogate.space import Space

BOUNDS = [(-1.1, 0.3), Real(1e-5, 0.7, log=True), Integer(-2, 1), Categorical(["a", "b", 7])]


def test_decoded_points_lie_in_the_bounds_exactly():
    space = Space(BOUNDS)
    unit = np.concatenate([np.zeros((1, 6)), np.ones((1, 6)), np.random.default_rng(0).uniform(-0.2, 1.2, (200, 6))])
    points = space.decode(unit)
    assert (space.width, space.num_dims, points.shape) == (6, 4, (202, 4))
    space.checked(points)
    np.testing.assert_allclose(points[:2, :3].astype(float), [[-1.1, 1e-5, -2], [0.3, 0.7, 1]], rtol=1e-12)


def test_encoding_and_decoding_are_inverse():
    space = Space(BOUNDS)
    points = space.decode(np.random.default_rng(1).random((50, 6)))
    again = space.decode(space.encode(points))
    np.testing.assert_allclose(again[:, :3].astype(float), points[:, :3].astype(float), rtol=1e-12)
    assert again[:, 3].tolist() == points[:, 3].tolist()


def test_whole_numbers_have_equal_shares_of_the_cube():
    values = Space([Integer(3, 6)]).decode((np.arange(400)[:, None] + 0.5) / 400)[:, 0]
    assert [int((values == v).sum()) for v in (3, 4, 5, 6)] == [100] * 4


def test_small_space_is_listed_whole():
    space = Space([Integer(0, 2), Categorical("xy")])
    listed = space.all_points(np.random.default_rng(0)).tolist()
    assert sorted(map(tuple, listed)) == [(i, c) for i in range(3) for c in "xy"]
    assert len(Space([(0, 1)]).all_points(np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([], "at least one dimension"),
        ([(0, 1), 3], r"for each dimension. Received: 3"),
        ([(1, 1)], "low < high.*low=1.0"),
        ([(0, np.inf)], "finite bounds"),
    ],
)
def test_bad_bounds_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        Space(bounds)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Real(0, 1, log=True), "low > 0 where it is logarithmic"),
        (lambda: Integer(0.5, 2), "whole bounds"),
        (lambda: Categorical(["a", "a"]), "different choices"),
        (lambda: Categorical([(1, 2), 3]), "words, plain numbers"),
    ],
)
def test_bad_dimensions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_points_outside_are_refused_by_place():
    with pytest.raises(ValueError, match=r"Received: 2.0 in dimension 1 of point 1"):
        Space([(0, 1), (0, 1)]).checked([[0, 1], [0.5, 2.0]])
    with pytest.raises(ValueError, match=r"shape \(n, 2\). Received: shape \(1, 3\)"):
        Space([(0, 1), (0, 1)]).checked([[0, 1, 1]])


def test_targets_come_back_as_heights():
    heights = np.random.default_rng(2).normal(size=51) ** 3
    targets = normalised(heights)
    np.testing.assert_allclose([targets.max(), np.median(targets)], [1, 0], atol=1e-12)
    assert targets.min() > -6 and (np.argsort(targets) == np.argsort(heights)).all()
    np.testing.assert_allclose(denormalised(targets, heights), heights, rtol=1e-9, atol=1e-12)
    assert np.isfinite(normalised(np.full(5, 3.0))).all()


@pytest.mark.parametrize("num_members", [0, 1, 2, 5, 8, 30])
def test_every_member_is_in_one_group(num_members):
    found = groups(num_members, 2)
    assert len(found) == 3 and sorted(np.concatenate(found).tolist()) == list(range(num_members))
    assert [len(members) for members in groups(num_members, 2, alone=1)] == [0, num_members, 0]
    assert len(groups(num_members, 2, leader=1)[1]) >= len(groups(num_members, 2, leader=1)[0])


def test_region_that_climbs_fast_is_more_promising_than_a_higher_one_that_stands():
    unit, heights = np.array([[0.1, 0.1], [0.9, 0.9]]), np.array([1.0, 0.0])
    niches = Niches(count=2, patience=100)
    niches.update(unit, heights, np.array([-1, -1]))
    assert niches.ranked() == niches.promising() == [0, 1]
    niches.update(np.vstack([unit, [0.8, 0.9]]), np.append(heights, 0.6), np.array([-1, -1, 1]))
    assert niches.ranked() == [0, 1] and niches.promising() == [1, 0]
    assert niches.regions[1].pace == pytest.approx(0.6 / MEMORY) and niches.regions[0].pace == 0
    rest = np.vstack([unit, [0.8, 0.9], *[[0.85, 0.9]] * 40])
    niches.update(rest, np.append(heights, [0.6] + [0.5] * 40), np.array([-1, -1, 1] + [1] * 40))
    assert niches.promising() == [0, 1]  # its pace is forgotten


def test_region_is_as_wide_as_its_steps_shrinks_without_success_and_is_given_up_for_one_elsewhere():
    niches = Niches(count=1, patience=4)
    unit, heights, origins = np.array([[0.1, 0.1], [0.9, 0.9]]), np.array([1.0, 0.5]), np.array([-1, -1])
    niches.update(unit, heights, origins)
    region = niches.regions[0]
    assert region.centre.tolist() == [0.1, 0.1]

    def tell(point, height):
        nonlocal unit, heights, origins
        unit, heights, origins = np.vstack([unit, [point]]), np.append(heights, height), np.append(origins, 0)
        niches.update(unit, heights, origins)

    tell([0.2, 0.1], 1.1)  # a step of 0.1 in a box of 0.3
    assert region.height == 1.1 and region.half == pytest.approx(0.2)
    tell([0.12, 0.1], 1.5)
    assert region.height == 1.5 and region.half == pytest.approx(0.16)
    tell([0.12, 0.12], 1.6)  # at most halved
    assert region.half == pytest.approx(0.08)
    tell([0.24, 0.12], 1.7)  # at most doubled
    assert region.half == pytest.approx(0.16)
    half = region.half
    for _ in range(4):
        tell([0.2, 0.1], 0.0)
    assert region.half == half / 2
    while not niches.exhausted:
        assert niches.regions[0].half >= SMALLEST
        tell([0.22, 0.11], 0.0)
    assert [place.tolist() for place in niches.exhausted] == [[0.24, 0.12], [0.1, 0.1]]  # where it ended, and began
    assert niches.regions[0].centre.tolist() == [0.9, 0.9]
    again = Niches(count=1, patience=4)
    again.restore(niches.state())
    assert again.state() == niches.state()


def test_two_regions_keep_apart():
    unit = np.random.default_rng(3).random((200, 3))
    niches = Niches(count=2, patience=4)
    niches.update(unit, -np.linalg.norm(unit - 0.3, axis=1), np.full(200, -1))
    first, second = (region.centre for region in niches.regions)
    assert np.linalg.norm(first - second) > 0.2 * np.sqrt(3)


def test_region_does_not_move_to_where_a_higher_one_is():
    """Both boxes of Hartmann-6 once stood at one false maximum: the lower one had leapt to the better points in its box."""
    niches = Niches(count=2, patience=4)
    unit = np.array([[0.2, 0.5], [0.8, 0.5], [0.0, 0.0]])
    niches.update(unit, np.array([1.0, 0.5, 0.0]), np.full(3, -1))
    unit = np.vstack([unit, [[0.45, 0.5], [0.7, 0.5]]])  # in both boxes; the first is nearer to the higher region
    niches.update(unit, np.array([1.0, 0.5, 0.0, 0.9, 0.6]), np.full(5, -1))
    assert [region.centre.tolist() for region in niches.regions] == [[0.2, 0.5], [0.7, 0.5]]
    assert niches.owns(1, np.array([[0.44, 0.5], [0.46, 0.5]])).tolist() == [False, True]


def test_region_leads_alone_until_a_place_on_the_way_to_the_next_is_lower_than_both():
    niches = Niches(count=2, patience=99)
    unit, heights, origins = np.array([[0.1, 0.5], [0.9, 0.5]]), np.array([1.0, 0.8]), np.array([-1, -1])
    niches.update(unit, heights, origins)
    assert niches.alone() is None  # nothing is known yet

    def tell(point, height, origin=BETWEEN):
        nonlocal unit, heights, origins
        unit, heights, origins = np.vstack([unit, [point]]), np.append(heights, height), np.append(origins, origin)
        niches.update(unit, heights, origins)

    np.testing.assert_allclose(niches.between(0.4), [0.42, 0.5])
    tell(niches.between(0.4), 0.9)
    assert niches.alone() == 0
    tell([0.91, 0.5], 1.1, origin=1)
    assert niches.alone() == 1  # the other one is higher now
    tell([0.5, 0.1], 0.2, origin=1)
    assert niches.alone() == 1  # it does not lie between them
    tell(niches.between(0.5), 0.95)
    assert niches.alone() is None
    tell(niches.between(0.4), 1.05)
    assert niches.alone() is None  # what was seen stays
    again = Niches(count=2, patience=99)
    again.restore(niches.state())
    assert again.alone() is None and again.state() == niches.state()
    niches.regions[0].half = SMALLEST / 2
    tell([0.5, 0.9], 0.0, origin=0)
    assert niches.exhausted and niches.alone() == 1  # for the region that began in its place all is open again


def test_region_that_is_drawn_to_an_exhausted_place_begins_elsewhere():
    niches = Niches(count=1, patience=4)
    unit, heights = np.array([[0.5, 0.5], [0.9, 0.9]]), np.array([1.0, 0.0])
    niches.update(unit, heights, np.full(2, -1))
    niches.exhausted = [np.array([0.6, 0.6])]
    niches.update(unit, heights, np.full(2, -1))
    assert niches.regions[0].centre.tolist() == [0.9, 0.9]
    assert [place.tolist() for place in niches.exhausted] == [[0.6, 0.6], [0.5, 0.5]]
    niches.exhausted += [np.array([0.9, 0.8])]  # nothing is far from all of them: the furthest is taken
    niches.update(unit, heights, np.full(2, -1))
    assert len(niches.regions) == 1 and niches.ranked() == [0]


def test_acquisitions_want_what_they_say():
    predictions = np.array([[1.0, 1.0], [0.5, 2.5], [2.0, 0.0]])  # means 1, 1.5, 1
    wanted = {name: int(a(predictions, 1.0, 0).argmax()) for name, a in ACQUISITIONS.items()}
    assert wanted == {"own": 2, "mean": 1, "bound": 1, "improvement": 1}
    sure = np.array([[2.0, 2.0]])
    np.testing.assert_allclose(ACQUISITIONS["improvement"](sure, 0.5, 0), [1.5], rtol=1e-6)
