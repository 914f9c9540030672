"""Can a running, noisy system be tuned while it runs, from a few hundred measurements?

A storage node spreads requests over queues whose disks change their speed. What is tuned are the weights of the queues, and
how many requests are let in; what is measured, in every period, is the throughput, less what waits. No measurement is
repeated, and none is thrown away: the system runs with what is tried.
"""

import numpy as np

from keras_multiweight.surrogate import SurrogateOptimizer

SPEEDS = np.array([1.0, 4.0, 2.0, 8.0, 3.0, 6.0])  # requests a tick


class StorageNode:
    """Queues that serve what they are given, as fast as they can at the time.

    Args:
        seed: int, of the noise.
    """

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.time = 0
        self.waiting = np.zeros(len(SPEEDS))

    def run(self, settings, ticks=40):
        """The reward of one period with `settings`: 6 weights of the queues, and the requests let in a tick."""
        shares, load = settings[:-1] / settings[:-1].sum(), settings[-1]
        served = 0.0
        for _ in range(ticks):
            self.time += 1
            speeds = SPEEDS * (1 + 0.1 * np.sin(self.time / 400 + np.arange(len(SPEEDS))))
            self.waiting += self.rng.poisson(load * shares)
            done = np.minimum(self.waiting, self.rng.poisson(speeds))
            self.waiting = np.minimum(self.waiting - done, 50)  # the rest is refused
            served += done.sum() - 0.02 * self.waiting.sum()
        return served / ticks


def main(budget=240, seed=0):
    """Mean rewards of equal weights, of the first and the last tenth of the measurements, and of what is recommended."""
    bounds = [(0.02, 1.0)] * len(SPEEDS) + [(5.0, 40.0)]
    optimizer = SurrogateOptimizer(bounds, maximize=True, noise=0.5, batch_size=6, seed=seed)
    node = StorageNode(seed)
    optimizer.minimize(node.run, budget, batched=False)
    rewards, tenth = optimizer.history["y"], budget // 10
    chosen = optimizer.recommend()
    equal = np.array([1.0] * len(SPEEDS) + [SPEEDS.sum()])
    after = {name: np.mean([StorageNode(s).run(x, ticks=200) for s in range(10)]) for name, x in
             {"equal weights": equal, "recommended": chosen.x}.items()}  # fmt: skip
    found = {**after, "first tenth": rewards[:tenth].mean(), "last tenth": rewards[-tenth:].mean()}
    for name, reward in found.items():
        print(f"{name:14} {reward:6.2f} requests a tick")
    print(
        "recommended weights:", np.round(chosen.x[:-1] / chosen.x[:-1].sum(), 2), "of speeds", SPEEDS / SPEEDS.sum().round(2)
    )
    return found


if __name__ == "__main__":
    main()
