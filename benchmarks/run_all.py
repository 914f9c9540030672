"""Run all benchmarks of prediction, and write what they say.

    python benchmarks/run_all.py                                  # all three backends, an hour or two
    python benchmarks/run_all.py --backends jax --models MLP LSTM  # a part; what is not measured again is kept
    python benchmarks/run_all.py --only-write                      # the table and the pictures from the files there are

Each backend and model runs in a process of its own. What was measured goes to `benchmarks/measured/*.json`, the summary to
RESULTS.md between its two marks, with its date, and the pictures to `benchmarks/pictures/`.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
MEASURED = HERE / "measured"
RESULTS = HERE / "RESULTS.md"
BEGIN, END = "<!-- summary: begin -->", "<!-- summary: end -->"
BACKENDS = ("tensorflow", "jax", "torch")
MODELS = ("MLP", "digits CNN", "LSTM", "Transformer", "MobileNetV2", "ResNet50")
GROWTH = "growth"
RIVALS = ("loop of compiled calls", "branches, compiled", "vmap", "by hand")  # what packing must not lose to
NOISE = 1.05
COLUMNS = ("", "predictor, ms", *RIVALS, "ONNX Runtime", "of GEMM", "first call, s", "memory, MB", "")


def file_of(backend, part):
    return MEASURED / f"{backend}-{part.replace(' ', '_')}.json"


def run(backend, part, options):
    """Run one benchmark in a process of its own. One that fails is reported, and the others go on."""
    script = ["growth.py"] if part == GROWTH else ["predict_speed.py", "--models", part]
    MEASURED.mkdir(exist_ok=True)
    arguments = [*script, "--repeats", str(options.repeats), "--json", str(file_of(backend, part))]
    if part == "MLP" and options.whole:
        arguments.append("--whole")
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    print(f"--- {backend}, {part}", flush=True)
    if subprocess.run([sys.executable, *arguments], cwd=HERE, env=environment, check=False).returncode:
        print(f"!!! {backend}, {part} failed", flush=True)


def measured(backend, part):
    file = file_of(backend, part)
    return json.loads(file.read_text()) if file.exists() else {"lines": []}


def best_rival(line):
    """The name of the fastest peer that was measured, and its time over that of the packed model; (None, None) without."""
    seconds = {name: s for name, s in line["seconds"].items() if name in RIVALS}
    name = min(seconds, key=seconds.get, default=None)
    return name, name and seconds[name] / line["seconds"]["predictor"]


def row_of(line):
    """The cells of a line of the summary."""
    mine = line["seconds"]["predictor"]
    ratios = [f"{line['seconds'][name] / mine:.2f}" if name in line["seconds"] else "" for name in (*RIVALS, "ONNX Runtime")]
    name, ratio = best_rival(line)
    lost = f"loses to {name}" if name and ratio * NOISE < 1 else ""
    memory = "" if line["memory"] is None else f"{line['memory']:,.0f}"
    title = f"{line['model']}, N={line['members']:,}, {line['rows']:,} rows"
    return [
        title,
        f"{1e3 * mine:,.2f}",
        *ratios,
        f"{100 * line['limit'] / mine:.0f} %",
        f"{line['first']:.1f}",
        memory,
        lost,
    ]


def summary():
    """The text between the marks of RESULTS.md."""
    parts = [f"Written by `python benchmarks/run_all.py` on {datetime.date.today()}. {__doc__.splitlines()[0]}", EXPLAINED]
    for backend in BACKENDS:
        files = [measured(backend, part) for part in MODELS]
        lines = [line for file in files for line in file["lines"]]
        if not lines:
            continue
        head = next(file["measured"] for file in files if file["lines"])
        rows = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 2), "---"], *map(row_of, lines)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts.append(f"### {backend}\n\n{head}\n\n{table}\n\n{verdict(lines)}{grown(backend)}")
    return "\n\n".join([*parts, *PICTURES])


PICTURES = (
    "![How many times faster than a loop of compiled calls](pictures/headline.png)",
    "![How the cost grows with the members and with the rows](pictures/growth.png)",
)
EXPLAINED = (
    "Ratios are the time of a peer over that of `multi.predictor()` in the same run: above 1 packing is faster. *of GEMM*: "
    "the rate of the model's multiplications relative to that of one square matrix product, the limit. *first call*: "
    "seconds to trace and compile. *memory*: MB by which the process grew at most in that call. The last column names what "
    "packing loses to by more than 5 %."
)


def verdict(lines):
    ratios = [ratio for line in lines if (ratio := best_rival(line)[1])]
    lost = [ratio for ratio in ratios if ratio * NOISE < 1]
    worst = f", at worst {1 / min(lost):.2f} times slower" if lost else ""
    return f"Slower than its best rival in {len(lost)} of {len(ratios)} lines{worst}."


def grown(backend):
    """What compiling costs for 10 and for 1,000 members."""
    first = {line["members"]: line["first"] for line in measured(backend, GROWTH)["lines"] if line["rows"] == 32}
    if not {10, 1000} <= first.keys():
        return ""
    ratio = first[1000] / first[10]
    seconds = f"{first[10]:.2f} s for N=10, {first[1000]:.2f} s for N=1,000 ({ratio:.2f} times)"
    return f" To trace and compile the MLP, 32 rows: {seconds}."


def write():
    text = RESULTS.read_text()
    if BEGIN not in text:
        raise ValueError(f"RESULTS.md must have the marks {BEGIN} and {END}, between which the summary goes.")
    before, rest = text.split(BEGIN)
    RESULTS.write_text(f"{before}{BEGIN}\n\n{summary()}\n\n{END}{rest.split(END)[1]}")
    subprocess.run([sys.executable, "pictures.py"], cwd=HERE, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--models", nargs="+", choices=(*MODELS, GROWTH), default=(*MODELS, GROWTH))
    parser.add_argument("--whole", action="store_true", help="all sizes of the MLP, which takes hours")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only-write", action="store_true", help="measure nothing")
    options = parser.parse_args()
    for backend in options.backends if not options.only_write else ():
        for part in options.models:
            run(backend, part, options)
    write()


if __name__ == "__main__":
    main()
