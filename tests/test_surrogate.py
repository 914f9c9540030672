"""SurrogateOptimizer: what `ask` and `tell` promise."""

import concurrent.futures
import copy
import random

import keras
import numpy as np
import pytest

from keras_multiweight.surrogate import Categorical, Integer, SurrogateOptimizer, search
from keras_multiweight.surrogate.members import out_of_bag
from keras_multiweight.surrogate.regions import WIDEST, Niches, Region

CENTRE = np.array([0.3, -0.4, 1.1])
BOUNDS = [(-1, 1), (-2, 0.5), (0.1, 3)]


def bowl(x):
    return ((x - CENTRE) ** 2).sum(axis=-1)


def network(width=3):
    x = keras.Input((width,))
    return keras.Model(x, keras.layers.Dense(1)(keras.layers.Dense(12, activation="silu")(x)))


def make(bounds=BOUNDS, width=3, **options):
    return SurrogateOptimizer(bounds, **{"num_members": 3, "model": lambda: network(width), "n_init": 6, **options})


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """What `ask` and `tell` promise does not depend on how well the members fit, and torch takes its time for a step."""
    monkeypatch.setattr(search, "TRAIN_STEPS", 10)
    monkeypatch.setattr(search, "PRETRAIN_STEPS", 30)
    monkeypatch.setattr(search, "ASCENT_STEPS", 8)
    monkeypatch.setattr(search, "EARLY_STEPS", 30)
    monkeypatch.setattr(search, "EARLY_ROWS", 1_000)


@pytest.fixture(scope="module")
def compiled():
    return make(batch_size=4)


@pytest.fixture
def optimizer(compiled):
    """As new, without compiling again."""
    compiled.restart(0)
    compiled.callbacks.clear(), compiled.constraints.clear()
    return compiled


def weights(optimizer):
    return optimizer._search.ensemble.weights.copy()


def test_asked_points_are_within_the_bounds_and_distinct_from_all_known_ones(optimizer):
    known = set()
    for n in (1, 5, 3, 7, 2):  # the second is a part of the design and more, which nothing is known for
        for _ in range(2):  # asked again before anything is told
            x = optimizer.ask(n)
            assert x.shape == (n, 3) and optimizer.space.checked(x) is not None
            assert not known & set(map(tuple, x.tolist()))
            known |= set(map(tuple, x.tolist()))
        optimizer.tell(x[::-1], bowl(x[::-1]))
    assert len(known) == 36 and len(optimizer.pool) == 18 and len(optimizer.pool.pending) == 18


def test_tell_takes_any_points_in_any_order_and_never_trains(optimizer):
    before = weights(optimizer)
    x = optimizer.ask(6)
    optimizer.tell(x[3], bowl(x[3]))
    optimizer.tell(x[[5, 0]], bowl(x[[5, 0]]))
    optimizer.tell([[0, 0, 1.0]], [bowl(np.array([0, 0, 1.0]))])  # never asked
    assert len(optimizer.pool.pending) == 3
    np.testing.assert_array_equal(weights(optimizer), before)
    optimizer.ask(1)
    assert (weights(optimizer) != before).any()


def test_failed_evaluations_are_recorded_and_avoided(optimizer):
    x = optimizer.ask(6)
    optimizer.tell(x, [np.nan] * 6)
    with pytest.raises(ValueError, match="best needs an evaluation that did not fail"):
        optimizer.best  # noqa: B018
    assert optimizer.ask(3).shape == (3, 3)

    def f(x):
        return np.where(x[:, 0] > 0.5, np.nan, (1 - x[:, 0]) + 0.1 * bowl(x))

    optimizer.minimize(f, 70)
    assert len(optimizer.pool) == 70 and np.isfinite(optimizer.best.y) and optimizer.best.x[0] > 0
    last = optimizer.history["x"][-30:, 0] > 0.5
    assert np.isnan(optimizer.history["y"]).sum() >= 6 and last.mean() < 0.5
    assert np.isnan(optimizer.history["best"][:6]).all() and np.isfinite(optimizer.history["best"][-1])


def test_evaluations_from_elsewhere_stand_in_for_the_design(optimizer):
    x = optimizer.space.decode(np.random.default_rng(0).random((9, 3)))
    optimizer.tell(x, bowl(x))
    x = optimizer.ask(4)
    optimizer.tell(x, bowl(x))
    assert set(optimizer.history["origin"][:9]) == {"told"} and "design" not in optimizer.history["origin"]


def test_bad_tells_change_nothing(optimizer):
    for points, values, message in (
        ([[0, 0, 1]], [1, 2], "as many values as points"),
        ([[0, 0, 1]], [np.inf], "finite or NaN"),
        ([[0, 0, 1], [9, 0, 1]], [1, 2], "within the bounds. Received: 9.0"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.tell(points, values)
    with pytest.raises(ValueError, match=r"ask\(n\) takes a positive int. Received: n=0"):
        optimizer.ask(0)
    assert len(optimizer.pool) == 0


def test_two_runs_with_one_seed_are_equal_whatever_the_global_seeds_and_looking_changes_nothing(optimizer):
    def run(look):
        random.seed(look), np.random.seed(look), keras.utils.set_random_seed(look + 1)
        optimizer.restart(3)
        for _ in range(5):
            x = optimizer.ask()
            optimizer.tell(x, bowl(x))
            if look and len(optimizer.pool) > 2:
                optimizer.predict(x), optimizer.recommend(), optimizer.history, optimizer.best
        return optimizer.pool.points

    state = np.random.get_state()[1].copy()
    first = run(0)
    np.testing.assert_array_equal(run(1), first)
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    optimizer.ask()
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    optimizer.restart(4)
    assert (optimizer.ask(5) != first[:5]).any()


def test_budget_is_exact_and_callbacks_see_every_tell(optimizer):
    seen, calls = [], []
    optimizer.callbacks.append(lambda o: seen.append(len(o.pool)))
    best = optimizer.minimize(lambda x: calls.append(len(x)) or bowl(x), 11)
    assert calls == [4, 4, 3] and seen == [4, 8, 11] and best.y == optimizer.best.y
    optimizer.minimize(lambda x: bowl(x), 14, batched=False, callback=lambda o: True)
    assert len(optimizer.pool) == 14
    with pytest.raises(ValueError, match="budget must be a positive int"):
        optimizer.minimize(bowl, 0)


def test_executor_evaluates_in_parallel_to_the_exact_budget(optimizer):
    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        best = optimizer.minimize(bowl, 13, executor=executor)
    assert len(optimizer.pool) == 13 and not optimizer.pool.pending and best.y == bowl(best.x)


def test_exception_of_the_function_keeps_what_was_told_and_waits_for_nothing(optimizer):
    def f(x):
        if len(optimizer.pool) >= 4:
            raise OSError("disk full")
        return bowl(x)

    with pytest.raises(OSError, match="disk full"):
        optimizer.minimize(f, 20)
    assert len(optimizer.pool) == 4 and not optimizer.pool.pending
    optimizer.restart(0)
    with concurrent.futures.ThreadPoolExecutor(2) as executor, pytest.raises(OSError, match="disk full"):
        optimizer.minimize(f, 20, executor=executor)
    assert not optimizer.pool.pending and len(optimizer.minimize(bowl, 20).x) == 3


def test_largest_value_is_found_as_the_smallest_of_the_negative(optimizer):
    optimizer.minimize(bowl, 16)
    points = optimizer.pool.points
    other = make(maximize=True, batch_size=4)
    best = other.minimize(lambda x: -bowl(x), 16)
    np.testing.assert_array_equal(other.pool.points, points)
    assert best.y == -optimizer.best.y == other.history["best"][-1]
    np.testing.assert_allclose(other.predict(points).mean, -optimizer.predict(points).mean, rtol=1e-4, atol=1e-6)


def test_saved_and_resumed_run_equals_the_one_that_went_on(optimizer, tmp_path):
    optimizer.minimize(bowl, 24)
    out = optimizer.ask(3)
    optimizer.tell(out[1], np.nan)
    optimizer.save(tmp_path / "run.npz")
    resumed = SurrogateOptimizer.load(tmp_path / "run.npz", model=lambda: network())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.npz"]
    for o in (optimizer, resumed):
        o.tell(out[[2]], bowl(out[[2]]))
        o.minimize(bowl, 40)
    np.testing.assert_array_equal(resumed.pool.points, optimizer.pool.points)
    np.testing.assert_array_equal(resumed.pool.values, optimizer.pool.values)
    assert resumed.pool.pending == optimizer.pool.pending and resumed.pool.knows(tuple(out[0].tolist()))
    assert resumed.history["origin"].tolist() == optimizer.history["origin"].tolist()


def test_networks_lead_to_the_optimum(optimizer, monkeypatch):
    monkeypatch.setattr(search, "TRAIN_STEPS", 60)
    monkeypatch.setattr(search, "ASCENT_STEPS", 20)
    optimizer.minimize(bowl, 70)
    assert optimizer.best.y < 0.05
    np.testing.assert_allclose(optimizer.recommend().x, optimizer.best.x)
    at = optimizer.predict(np.concatenate([optimizer.best.x[None], [[-1, -2, 3]]]))
    assert at.mean.shape == at.std.shape == (2,) and at.members.shape == (2, 3) and (at.std >= 0).all()
    assert at.mean[0] < 0.3 < at.mean[1]


def test_all_members_lead_in_one_region_of_a_single_basin_and_answer_everywhere(optimizer):
    optimizer.minimize(bowl, 30)
    alone = optimizer._search.niches.alone()
    assert "between" in optimizer.history["origin"] and alone is not None
    assert [len(members) for members in optimizer._search.groups] == [3 * (k == alone) for k in range(3)]
    later = optimizer.history["origin"][-10:].tolist()
    assert set(later) <= {f"region {alone}", "between"}
    at = optimizer.predict(optimizer.space.decode(np.random.default_rng(0).random((300, 3))))
    assert np.isfinite(at.mean).all() and np.isfinite(at.std).all()


def test_prediction_is_sane_far_from_where_the_search_went(optimizer, monkeypatch):
    """Of every member, though a search ends with points together at the best, where the scale of targets is tiny."""
    monkeypatch.setattr(search, "TRAIN_STEPS", 60)
    rng = np.random.default_rng(0)
    together = optimizer.space.encode(CENTRE[None]) + 0.01 * rng.normal(size=(100, 3))
    known = optimizer.space.decode(np.concatenate([rng.random((40, 3)), np.clip(together, 0, 1)]))
    optimizer.tell(known, bowl(known))
    state, drawn = weights(optimizer), copy.deepcopy(optimizer.rng.bit_generator.state)
    x = optimizer.space.decode(rng.random((200, 3)))
    mean, std, members = optimizer.predict(x)
    expected, margin = bowl(x), 0.1 * np.ptp(optimizer.pool.values)
    assert members.min() >= optimizer.pool.values.min() - margin and members.max() <= optimizer.pool.values.max() + margin
    assert np.corrcoef(mean, expected)[0, 1] > 0.8 and np.median(np.abs(mean - expected)) < 0.5 * expected.std()
    assert (std <= np.ptp(members, axis=1)).all()
    np.testing.assert_array_equal(optimizer.predict(x).members, members)
    np.testing.assert_array_equal(weights(optimizer), state)
    assert optimizer.rng.bit_generator.state == drawn


def test_recommended_point_of_a_noisy_function_is_nearer_to_the_optimum_than_the_best_told_one(monkeypatch):
    """On eight functions of eight, which luck would give in one of 256 runs, and by more than a half in the mean."""
    monkeypatch.setattr(search, "PRETRAIN_STEPS", 100)
    noisy, away = SurrogateOptimizer([(-1, 1)] * 3, noise=0.5), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, optimum = rng.uniform(-1, 1, (150, 3)), rng.uniform(-0.5, 0.5, 3)
        noisy.restart(seed)
        noisy.tell(x, ((x - optimum) ** 2).sum(axis=1) + 0.5 * rng.normal(size=150))
        away.append([np.linalg.norm(point.x - optimum) for point in (noisy.recommend(), noisy.best)])
    recommended, best = np.transpose(away)
    assert (recommended < best).all() and recommended.mean() < best.mean() / 2


def test_with_noise_one_region_has_all_members_and_a_batch_lies_further_apart():
    x, nearest = np.random.default_rng(0).uniform(-1, 1, (40, 3)), []
    for noise in (0.0, 0.1):
        optimizer = make([(-1, 1)] * 3, noise=noise)
        optimizer.tell(x, ((x - 0.2) ** 2).sum(axis=1))
        asked = optimizer.space.encode(optimizer.ask(6))
        apart = np.sqrt(((asked[:, None] - asked) ** 2).mean(axis=2)) + np.eye(6)
        nearest.append(apart.min())
    assert nearest[1] >= search.NOISY_GAP * np.mean(optimizer._search.frames[0].high - optimizer._search.frames[0].low) / 2
    assert nearest[1] > nearest[0]
    assert [len(members) for members in optimizer._search.groups] == [3, 0]
    assert (optimizer._search.frames[0].contains(asked)).all()


def counted(optimizer, monkeypatch):
    """Which programs of the ensemble run, and with what."""
    calls, ensemble = [], optimizer._search.ensemble
    for name in ("train", "ascend", "predict"):
        run = getattr(ensemble, name)
        monkeypatch.setattr(ensemble, name, lambda *a, name=name, run=run: calls.append((name, a)) or run(*a))
    return calls


def test_an_ask_trains_all_members_in_one_call_and_leads_all_starts_in_another(optimizer, monkeypatch):
    optimizer.minimize(bowl, 12)
    calls = counted(optimizer, monkeypatch)
    shapes = []
    for told in (12, 160):  # beyond the window
        if told > 12:
            x = optimizer.space.decode(np.random.default_rng(0).random((told - 12, 3)))
            optimizer.tell(x, bowl(x))
        calls.clear()
        optimizer.ask(5), optimizer.ask(5)  # the second has nothing to learn
        names = [name for name, _ in calls]
        assert names.count("train") == 1 and names.count("ascend") == 2
        shapes.append({name: [np.shape(a) for a in args] for name, args in calls})
    assert shapes[0]["ascend"][0] == (search.STARTS, 3, 3) and shapes[0] == shapes[1]


@pytest.mark.parametrize("noise, expected", [(None, [30, 20, 10]), (0.1, [30, 10, 10, 10, 10])])
def test_training_is_the_longer_the_fewer_points_are_told_if_they_are_exact(monkeypatch, noise, expected):
    optimizer, found = make(n_init=20, noise=noise), []
    monkeypatch.setattr(optimizer._search.ensemble, "train", lambda *args: found.append(args[3]))
    for told in (20, 50, 120):
        x = optimizer.space.decode(np.random.default_rng(told).random((told - len(optimizer.pool), 3)))
        optimizer.tell(x, bowl(x))
        optimizer.ask(1)
        optimizer._search.ensemble.steps += 1
    assert found == expected  # with noise twice an ask, from the second on


@pytest.mark.parametrize("dim, share", [(3, 0.3), (8, 0.1)])
def test_another_region_beyond_a_valley_has_its_turns(dim, share):
    optimizer = SurrogateOptimizer([(0, 1)] * dim, num_members=0, seed=0)
    x = optimizer.ask(20)
    optimizer.tell(x, ((x - 0.4) ** 2).sum(axis=1))
    optimizer.ask(1)
    optimizer._search.niches.is_valley = True
    turns = []
    for optimizer._search.turn in range(100):
        turns.append(optimizer._search._group_in_turn())
    assert turns.count(optimizer._search.niches.promising()[1]) == 100 * share


def test_box_is_wider_along_what_matters_little():
    region = Region(np.array([0.5, 0.5]), 1.0, np.array([0.5, 0.5]), half=0.1)
    region.reshape(np.array([1.0, 1e-4]))
    narrow, wide = region.shape
    assert narrow < 1 < wide and narrow * wide == pytest.approx(1) and wide / narrow == pytest.approx(10**0.5, rel=1e-4)
    low, high = region.box()
    np.testing.assert_allclose((high - low) / 2, 0.1 * region.shape)
    np.testing.assert_allclose(region.away(np.array([high, [0.5, 0.5]])), [0.1, 0.0], atol=1e-12)
    for _ in range(9):
        region.reshape(np.array([1.0, 1e-4]))
    np.testing.assert_allclose(region.shape, [1 / WIDEST, WIDEST])
    niches, again = Niches(count=1, patience=4, regions=[region]), Niches(count=1, patience=4)
    again.restore(niches.state())
    np.testing.assert_array_equal(again.regions[0].shape, region.shape)


@pytest.mark.parametrize("noise", [None, 0.01])
def test_members_say_what_matters_little_where_there_is_noise(noise, monkeypatch):
    monkeypatch.setattr(search, "TRAIN_STEPS", 100)
    optimizer = make(n_init=20, noise=noise)
    for _ in range(4):
        x = optimizer.ask(10)
        optimizer.tell(x, (x[:, 0] - 1.0) ** 2)
    optimizer.ask(1)
    shape = np.broadcast_to(optimizer._search.niches.regions[0].shape, 3)
    assert shape[0] < shape[1:].min() if noise else (shape == 1).all()


def test_out_of_bag_rows_stay_so_as_rows_are_added():
    left_out = out_of_bag(400, 8, is_noisy=True, seed=0)
    assert (left_out.sum(axis=1) == 2).all()
    np.testing.assert_allclose(left_out.mean(axis=0), 0.25, atol=0.1)  # no member is spared
    np.testing.assert_array_equal(out_of_bag(90, 8, is_noisy=True, seed=0), left_out[:90])
    assert not out_of_bag(400, 8, is_noisy=False, seed=0).any() and not out_of_bag(400, 3, is_noisy=True, seed=0).any()


@pytest.mark.parametrize("num_members, share", [(4, 0.25), (3, 0.0)])
def test_noisy_points_are_judged_by_the_members_that_never_learned_them(num_members, share, monkeypatch):
    optimizer, learned = make(num_members=num_members, n_init=20, noise=0.1), []
    train = optimizer._search.ensemble.train
    monkeypatch.setattr(optimizer._search.ensemble, "train", lambda *data: [learned.append(data[2] > 0), train(*data)])
    for _ in range(2):
        x = optimizer.ask(20)
        optimizer.tell(x, bowl(x))
    optimizer.ask(1)
    found, pool, frame = optimizer._search, optimizer.pool, optimizer._search.frames[0]
    left_out = out_of_bag(40, num_members, is_noisy=True, seed=0)
    assert left_out.mean() == share and len(learned) == 3
    for weights in learned[1:]:  # both trainings of the last ask
        assert weights.sum() == 40 * num_members * (1 - share)
    np.testing.assert_array_equal(learned[-1][:40], ~left_out[frame.rows])
    judges = left_out if share else ~left_out
    expected = (found.answers([frame] * 2, pool.unit, pool.heights) * judges).sum(axis=1) / judges.sum(axis=1)
    np.testing.assert_allclose(found.expected(pool), expected, rtol=1e-5)


def test_ascent_is_as_long_as_the_model_can_be_trusted(optimizer, monkeypatch):
    optimizer.minimize(bowl, 12)
    optimizer.ask(1)
    calls = counted(optimizer, monkeypatch)
    for trust in (1.0, 0.6, 0.0):
        optimizer._search.trust = trust
        optimizer.ask(1)
    assert [args[3] for name, args in calls if name == "ascend"] == [8, 5, 2]
    x = optimizer.ask(6)
    expected = np.stack([optimizer.predict(p[None]).mean[0] for p in x])
    for values, is_valley, trust in ((expected, True, 0.3), (-expected, True, 0.0), (-expected, False, 0.3)):
        # a moving average of the rank correlation; of 1 where one region has all members
        optimizer._search.trust = 0.0
        optimizer._search.niches.is_valley = is_valley
        monkeypatch.setattr(optimizer._search, "expected", lambda pool, e=expected: np.append(np.zeros(len(pool) - 6), -e))
        optimizer.tell(x, values)
        optimizer._search._judge(optimizer.pool)
        assert optimizer._search.trust == pytest.approx(trust)
        optimizer.pool.values, optimizer.pool.origins = optimizer.pool.values[:-6], optimizer.pool.origins[:-6]
        optimizer.pool.points, optimizer.pool.unit = optimizer.pool.points[:-6], optimizer.pool.unit[:-6]


@pytest.mark.parametrize("name", ["own", "mean", "bound", "improvement"])
def test_candidates_are_chosen_by_the_acquisition_that_was_named(optimizer, monkeypatch, name):
    monkeypatch.setattr(optimizer._search, "acquisitions", [name])
    seen = []
    monkeypatch.setitem(search.ACQUISITIONS, name, lambda p, best, member: seen.append(member) or p[:, 0])
    optimizer.minimize(bowl, 12)
    assert len(seen) >= (optimizer.history["origin"][6:] != "between").sum() >= 5
    with pytest.raises(ValueError, match=r"acquisitions must be one or more of \['own'.*Received: acquisitions=\['luck'\]"):
        make(acquisitions="luck")


def test_mixed_space_with_constraints_gives_only_allowed_points_and_ends_with_the_last(tmp_path):
    bounds = [Integer(0, 3), Categorical(["a", "b", "c"])]
    optimizer = make(bounds, width=4, n_init=3, constraints=lambda x: x[:, 0] + (x[:, 1] == "c") < 4)

    def f(x):
        return np.array([(p[0] - 2) ** 2 + "cab".index(p[1]) for p in x], float)

    assert optimizer.minimize(f, 8).y <= 1
    optimizer.save(tmp_path / "run.npz")
    resumed = SurrogateOptimizer.load(tmp_path / "run.npz", model=lambda: network(4), constraints=optimizer.constraints)
    last = resumed.ask(3)
    assert resumed.allowed(last).all() and last.dtype == object and not resumed.allowed(np.array([[3, "c"]], object))[0]
    assert len(set(map(tuple, resumed.pool.points.tolist())) | set(map(tuple, last.tolist()))) == 11
    with pytest.raises(ValueError, match=r"neither told nor are pending. Received: ask\(1\), where 0 were found"):
        resumed.ask(1)


def test_member_without_siblings_is_not_forked(optimizer):
    with pytest.raises(ValueError, match="a member that has learned"):
        optimizer.fork(0)
    single = make(num_members=1)
    single.minimize(bowl, 12)
    single.ask(1)
    with pytest.raises(ValueError, match=r"must have member j beside it in its group: one of \[\]"):
        single.fork(0)


def test_fork_goes_on_apart_and_merges_where_that_predicts_better():
    optimizer = make(num_members=6)
    optimizer.minimize(bowl, 24)
    optimizer.ask(1)
    i = 0
    j = optimizer.fork(i)
    assert j in optimizer._search.groups[optimizer._search.niches.alone()] and j != i
    np.testing.assert_array_equal(weights(optimizer)[j], weights(optimizer)[i])
    assert not optimizer.merge(i, j)  # equal members predict equally
    optimizer.minimize(bowl, 32)
    optimizer.ask(1)
    assert (weights(optimizer)[j] != weights(optimizer)[i]).any()
    good, away = weights(optimizer)[i], np.random.default_rng(0).normal(size=weights(optimizer)[i].shape)
    for weights_i, weights_j, merges in ((good + away, good - away, True), (good, good + 9 * away, False)):
        optimizer._search.ensemble.weights[[i, j]] = weights_i, weights_j
        assert optimizer.merge(i, j) is merges
        np.testing.assert_allclose(weights(optimizer)[i], good, atol=1e-5)


def test_members_that_have_come_to_different_groups_do_not_merge():
    """When a valley is found, members that were of one group are of three."""
    optimizer = make(num_members=6)
    optimizer.minimize(bowl, 24)
    optimizer.ask(1)
    j = optimizer.fork(0, 5)
    optimizer._search.niches.is_valley = True
    assert j not in optimizer._search._group(0)
    before = weights(optimizer).copy()
    assert not optimizer.merge(0, j)
    np.testing.assert_array_equal(weights(optimizer), before)
    for other in (0, 6):
        with pytest.raises(ValueError, match="A member merges with another"):
            optimizer.merge(0, other)


def test_records_have_a_row_an_evaluation(optimizer):
    pandas, plt = pytest.importorskip("pandas"), pytest.importorskip("matplotlib")
    plt.use("Agg")
    optimizer.minimize(bowl, 12)
    frame = optimizer.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and frame.columns.tolist() == ["x0", "x1", "x2", "y", "best", "origin"]
    np.testing.assert_array_equal(frame["best"], np.minimum.accumulate(frame["y"]))
    assert set(frame["origin"][:6]) == {"design"}
    np.testing.assert_allclose(optimizer.plot_convergence().lines[1].get_ydata(), frame["best"])
    np.testing.assert_allclose(optimizer.plot_convergence(optimum=0.0).lines[0].get_ydata(), frame["best"])


@pytest.mark.parametrize("name", ["num_members", "n_init", "batch_size"])
def test_bad_numbers_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name} must be an int of at least \d. Received: {name}=-1"):
        SurrogateOptimizer([(0, 1)], **{name: -1})
    with pytest.raises(ValueError, match="predict needs a network"):
        SurrogateOptimizer([(0, 1)], num_members=0).predict([[0.5]])


@pytest.mark.parametrize("noise", [-0.1, np.nan, np.inf, "x"])
def test_noise_is_a_standard_deviation(noise):
    with pytest.raises(ValueError, match="noise must be a standard deviation"):
        make(noise=noise)


def test_constraints_give_a_bool_for_each_point():
    with pytest.raises(ValueError, match=r"constraints must give a bool for each of 1 points\. Received: 3"):
        make(constraints=lambda points: np.zeros(3, bool)).allowed(np.zeros((1, 3)))
