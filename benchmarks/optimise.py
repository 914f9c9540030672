"""How close to the optimum are N networks, networks off, one network, and their peers, after how many evaluations?

    python benchmarks/optimise.py hartmann ackley-10 --methods members-8 members-0 members-1 cma --budget 500
    python benchmarks/optimise.py hartmann --noise 0.25 --budget 300
    python benchmarks/optimise.py --table

Every row is added to `optimise.json` beside this file: for each seed the true regrets after 100, 200, ... evaluations, the
regret of what the method recommends, and the distance of the best point from the optimum; the median seconds of a run.
`members-0` is the method without its networks, `members-1` with one.
"""

import argparse
import json
import pathlib
import time
import warnings

import numpy as np
from optimise_peers import PEERS
from optimise_problems import HARTMANN_AT, problem

FILE = pathlib.Path(__file__).with_name("optimise.json")
AT = (100, 200, 300, 500, 1000, 2300)
FIRST_SEED = 5000  # the method was tuned on seeds 1000 to 1019


def members(num_members, dim, noise, batch):
    """A method that compiles once and begins anew with every seed."""
    from keras_multiweight.surrogate import SurrogateOptimizer

    optimizer = SurrogateOptimizer([(0, 1)] * dim, num_members=num_members, noise=noise, batch_size=batch)

    def method(f, dim, seed, budget):
        optimizer.restart(seed)
        optimizer.minimize(f, budget, batched=False)
        return optimizer.pool.points, optimizer.recommend().x if noise else None

    return method


def run(name, method, seeds, budget, noise, batch):
    """One row of results."""
    dim = problem(name, 0)[1]
    peer = PEERS.get(method) or members(int(method.removeprefix("members-")), dim, noise, batch)
    regrets, recommended, distances, seconds = [], [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        f, _ = problem(name, seed)
        rng = np.random.default_rng([seed, 1])
        start = time.perf_counter()
        points, choice = peer(lambda x, f=f, rng=rng: f(x[None])[0] + noise * rng.normal(), dim, seed, budget)
        seconds.append(time.perf_counter() - start)
        true = f(points)
        told = true + noise * np.random.default_rng([seed, 1]).normal(size=len(true)) if noise else true
        best = np.array([true[: n + 1][told[: n + 1].argmin()] for n in range(len(true))])
        regrets.append(best)
        recommended.append(float(f(np.asarray(choice)[None])[0]) if choice is not None else float(best[-1]))
        distances.append(float(np.linalg.norm(points[told.argmin()] - HARTMANN_AT)) if dim == 6 else None)
    return {
        "problem": name,
        "method": method,
        "noise": noise,
        "batch": batch,
        "budget": budget,
        "seeds": [FIRST_SEED, seeds],
        "regret": {str(n): [float(f"{r[n - 1]:.4g}") for r in regrets] for n in AT if n <= budget},
        "recommended": [float(f"{r:.4g}") for r in recommended],
        "distance": distances,
        "seconds": round(float(np.median(seconds)), 2),
    }


def add(row):
    """Put a row in the file, in the place of an earlier one of the same setting."""
    key = ("problem", "method", "noise", "batch", "budget")
    rows = [r for r in read() if any(r[k] != row[k] for k in key)]
    FILE.write_text("[\n" + ",\n".join(map(json.dumps, [*rows, row])) + "\n]\n")


def read():
    return json.loads(FILE.read_text()) if FILE.exists() else []


def p_value(row, other):
    """Mann and Whitney's, of a smaller regret in the end."""
    from scipy.stats import mannwhitneyu

    last = "recommended" if row["noise"] else None
    values = [r[last] if last else r["regret"][str(r["budget"])] for r in (row, other)]
    return float(mannwhitneyu(*values, alternative="less").pvalue)


def line(row, rows):
    """A line of the table in Markdown."""
    medians = [f"{np.median(row['regret'][str(n)]):.2g}" if str(n) in row["regret"] else "" for n in AT]
    success = np.mean(np.array(row["regret"][str(row["budget"])]) < 0.01)
    same = [r for r in rows if all(r[k] == row[k] for k in ("problem", "noise", "budget", "batch"))]
    against = [r for r in same if r["method"] in ("members-8", "members-5", "members-30") and r is not row]
    p = ", ".join(f"{p_value(r, row):.1e}" for r in against)
    told = f"{np.median(row['recommended']):.2g}" if row["noise"] else ""
    name = row["problem"] + (f", noise {row['noise']}" if row["noise"] else "")
    cells = [name, row["method"], row["budget"], *medians, told, f"{success:.2f}", f"{row['seconds']:.1f}", p]
    return "| " + " | ".join(map(str, cells)) + " |"


def table():
    head = ["problem", "method", "budget", *(f"@{n}" for n in AT), "recommended", "regret < 0.01", "seconds a run", "p"]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    rows = read()
    for row in sorted(rows, key=lambda r: (r["problem"], r["noise"], r["budget"])):
        print(line(row, rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*")
    parser.add_argument("--methods", nargs="*", default=["members-8", "members-0", "members-1", *PEERS])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in args.problems:
        for method in args.methods:
            row = run(name, method, args.seeds, args.budget, args.noise, args.batch)
            add(row)
            print(line(row, []), flush=True)
    if args.table:
        table()


if __name__ == "__main__":
    main()
