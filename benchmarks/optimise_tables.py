"""The tables of `RESULTS.md` from `optimise.json`, in Markdown: medians over the seeds, and p-values of a leading row.

    python benchmarks/optimise_tables.py

p is Wilcoxon's signed-rank test, one-sided, that the regrets of the leading row are smaller: a seed is one function and, for
networks, one initial design, so that runs are compared in pairs, on the seeds that both rows have. Rows that have none in
common with the leading one are of an earlier measurement, and marked by a star.
"""

import numpy as np
from optimise import FIRST_SEED, read
from optimise_peers import PEERS
from scipy.stats import fisher_exact, wilcoxon

ABLATIONS = ("members-0", "members-1")
VARIANTS = ("members-2", "members-5", "members-8", "members-10", "members-30", "members-8-forks", "members-8-evolution")
AGAINST = (*ABLATIONS, "differential evolution", "cma", "TPE", "Optuna CMA-ES")
METHODS = (*VARIANTS, *ABLATIONS, *PEERS)
NAMES = {"members-0": "networks off", "members-1": "1 network"}
MANY_OPTIMA = [f"{name}-{dim}" for dim in (10, 20) for name in ("ackley", "levy", "rastrigin")]


def label(method, *rows):
    """What a method is called, with a star if any of its rows is of earlier seeds."""
    _, _, own = method.partition("members-")
    number, _, kind = own.partition("-")
    name = NAMES.get(method) or (f"{number} networks{f' with {kind}' * bool(kind)}" if own else method)
    return name + "\\*" * any(row["seeds"][0] < FIRST_SEED for row in rows if row)


def end(row):
    """The regrets at the end: of what is recommended where the function is noisy."""
    return row["recommended"] if row["noise"] else row["regret"][str(row["budget"])]


def by_seed(row):
    first, count = row["seeds"]
    return dict(zip(range(first, first + count), end(row)))


def paired(*rows):
    """Their regrets on the seeds that all have."""
    found = [by_seed(row) for row in rows]
    seeds = sorted(set.intersection(*map(set, found)))
    return [[regrets[seed] for seed in seeds] for regrets in found]


def p_value(lead, row):
    ours, others = paired(lead, row)
    if row is lead or not ours:
        return ""
    p = wilcoxon(ours, others, alternative="less").pvalue
    return f"{p:.2g}" if p >= 1e-3 else f"{p:.0e}"


def runs(row):
    return str(len(end(row)))


def median(row, at=None):
    return f"{np.median(row['regret'][str(at)] if at else end(row)):.2g}"


def shares(row):
    """Of runs that end with a regret under 0.01, and within 0.1 of the maximum."""
    return [np.mean(np.array(end(row)) < 0.01), np.mean(np.array(row["distance"][str(row["budget"])]) < 0.1)]


def printed(head, lines):
    print("| " + " | ".join(head) + " |\n| --- " + "| ---: " * (len(head) - 1) + "|")
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


def hartmann(rows, budget, lead, at):
    found = {m: rows["hartmann", 0.0, budget, m] for m in METHODS if ("hartmann", 0.0, budget, m) in rows}
    lines = [
        [
            label(m, row),
            runs(row),
            *(median(row, n) for n in at),
            *(f"{s:.2f}" for s in shares(row)),
            p_value(found[lead], row),
        ]
        for m, row in found.items()
    ]
    printed([f"Hartmann-6, {budget} calls", "runs", *(f"@{n}" for n in at), "regret < 0.01", "distance < 0.1", "p"], lines)
    for m in found:
        if m.startswith("members-") and m not in ABLATIONS:
            against_ablations(found, m)


def against_ablations(found, m):
    """Whether networks are better than none and than one: by their regrets, and by the share of runs under 0.01."""
    for other in (found[name] for name in ABLATIONS):
        both = paired(found[m], other)
        if not both[0]:
            continue
        total, wins = len(both[0]), [sum(regret < 0.01 for regret in regrets) for regrets in both]
        fisher = fisher_exact([[n, total - n] for n in wins], alternative="greater").pvalue
        print(
            f"- {label(m)} against {label(other['method'])}: regrets p = {p_value(found[m], other)}; runs under 0.01: "
            f"{wins[0]} and {wins[1]} of {total}, Fisher's exact p = {fisher:.2g}"
        )
    print()


def noise(rows, lead="members-8"):
    found = {m: rows["hartmann", 0.25, 300, m] for m in METHODS if ("hartmann", 0.25, 300, m) in rows}
    lines = [[label(m, row), runs(row), median(row), p_value(found[lead], row)] for m, row in found.items()]
    printed(["Hartmann-6, noise of sd 0.25, 300 calls", "runs", "true regret of what is recommended", "p"], lines)


def many_optima(rows, lead="members-8"):
    """Medians, and beneath them the p-values against each."""
    found = {m: [rows.get((problem, 0.0, 500, m)) for problem in MANY_OPTIMA] for m in METHODS}
    found = {m: cells for m, cells in found.items() if any(cells)}
    lines = [[label(m, *cells), *(median(row) if row else "" for row in cells)] for m, cells in found.items()]
    for m, cells in found.items():
        if m in AGAINST:
            p = [p_value(ours, row) if ours and row else "" for ours, row in zip(found[lead], cells)]
            lines += [[f"p, {label(lead)} below {label(m)}", *p]] if any(p) else []
    printed(["regret after 500", *MANY_OPTIMA], lines)


def main():
    rows = {(r["problem"], r["noise"], r["budget"], r["method"]): r for r in read()}
    hartmann(rows, 500, "members-8", (100, 200, 300, 500))
    hartmann(rows, 1000, "members-5", (100, 200, 300, 500, 1000))
    hartmann(rows, 2300, "members-5", (300, 500, 1000, 2300))
    noise(rows)
    many_optima(rows)


if __name__ == "__main__":
    main()
