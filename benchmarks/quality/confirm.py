"""Try what was found on CIFAR-10 on two other sets of images: half of steel's training photographs, and patches.

    python benchmarks/quality/confirm.py --cpu 0 [--methods swav,simclr] [--draws preset,best] [--minutes 5]
    python benchmarks/quality/confirm.py --table

A draw is that of a trial of ``search.py``: the method's first (``preset``), its best (``best``) or a numbered one. Crops,
batch, groups and queue are in proportion to the images (``tuning_sets.py``). One JSON file a trial, in
``results/quality/search/SET``.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from alternating import limit_threads, write_report

limit_threads()

from search import argument_parser, finished, stay_on, trial
from tuning_sets import OTHERS


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--draws", type=lambda text: text.split(","), default=["preset", "best"])
    parser.add_argument("--data", type=lambda text: text.split(","), default=[each.name for each in OTHERS])
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(table(options.trials))
        return
    stay_on(options.cpu)
    for images in (each.prepared(options.build) for each in OTHERS if each.name in options.data):
        for method in options.methods:
            for wished in options.draws:
                number = numbered(method, wished, options.trials)
                out = options.trials / images.name / f"{method}_{number:03d}.json"
                if not out.exists():
                    draw = json.loads((options.trials / f"{method}_{number:03d}.json").read_text())["draw"]
                    about = {"method": method, "number": number, "draw": draw, "minutes": options.minutes}
                    write_report(out, about | trial(method, draw, images, options.minutes))
                sys.stdout.write(f"{images.name} {method} {number}: {json.loads(out.read_text())['knn20']}\n")
                sys.stdout.flush()


def numbered(method: str, wished: str, trials: Path) -> int:
    """The number of a trial: given, or of the first, or of the best one on CIFAR-10."""
    if wished == "preset":
        return 0
    if wished != "best":
        return int(wished)
    own = [each for each in finished(trials) if each["method"] == method]
    return int(max(own, key=lambda each: each["knn20"])["number"])


def table(trials: Path) -> str:
    """20-NN of each draw on every set."""
    known = {(each["method"], each["number"]): each["knn20"] for each in finished(trials)}
    others = [
        {(each["method"], each["number"]): each["knn20"] for each in finished(trials / images.name)}
        for images in OTHERS
    ]
    tried = sorted({key for each in others for key in each})
    lines = [
        "| method | trial | cifar10 | " + " | ".join(each.name for each in OTHERS) + " |",
        "|" + " --- |" * (3 + len(OTHERS)),
    ]
    for key in tried:
        figures = [str(each.get(key, "-")) for each in (known, *others)]
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
