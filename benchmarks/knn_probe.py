"""The kNN probe beside scikit-learn's brute force on unit rows.

    python benchmarks/knn_probe.py [--rows 50000] [--queries 10000] [--repeats 5] [--threads 2] [--out results.json]

Contestants take turns, so that whatever else the machine does meets them alike; a ratio is the median over the repeats of
the ratio within a repeat. All are given the same unit rows and are timed from there to the accuracy:

* ``coterie knn``: as users call it, three numbers of neighbors (1, 20, 200) and two temperatures, top 1 and top 5.
* ``coterie knn, k = 20``: one number of neighbors and one temperature.
* ``scikit-learn, cosine`` and ``scikit-learn, euclidean``: KNeighborsClassifier(20, algorithm="brute"), one vote for each
  neighbor.

That both predict the same is checked first, for 1000 queries: by the nearest row, and by an unweighted vote of 20, which an
endlessly high temperature gives.

``alternating`` says why ``--threads 1`` and the ratio of CPU times say more on a machine with other work.
"""

import json
import os
from collections.abc import Callable

from alternating import alternate, circumstances, compared, limit_threads, probe_options, show_rows, write_report

THREADS = limit_threads("2")  # before numpy and torch come in

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from coterie.evaluation.probes.knn import knn, knn_predictions

PACKAGES = ("coterie", "numpy", "scikit-learn", "torch")
SEED = 0
CLASSES = 10
EQUAL_VOTES = 1e30  # a temperature so high that every neighbor's vote weighs the same

Data = tuple[Tensor, Tensor, Tensor, Tensor]


def unit_rows(rows: int, queries: int, width: int) -> Data:
    """Training rows and labels, queries and labels; ten overlapping classes."""
    generator = torch.Generator().manual_seed(SEED)
    centers = torch.randn(CLASSES, width, generator=generator)
    labels = torch.randint(0, CLASSES, (rows + queries,), generator=generator)
    found = F.normalize(0.12 * centers[labels] + torch.randn(rows + queries, width, generator=generator), dim=1)
    return found[:rows].clone(), labels[:rows], found[rows:].clone(), labels[rows:]


def scikit_learn(data: Data, metric: str, neighbors: int = 20) -> Tensor:
    train, labels, queries, _ = (each.numpy() for each in data)
    model = KNeighborsClassifier(neighbors, algorithm="brute", metric=metric).fit(train, labels)
    return torch.from_numpy(model.predict(queries))


def accuracy(guesses: Tensor, data: Data) -> float:
    return 100 * float((guesses == data[3]).double().mean())


def agreement(data: Data, queries: int) -> dict[str, float]:
    """How often, in percent, ours and scikit-learn's predictions are the same, for some of the queries."""
    some = (*data[:2], data[2][:queries], data[3][:queries])
    found = {}
    for neighbors in (1, 20):
        ours = knn_predictions(*some[:3], k=neighbors, temperature=EQUAL_VOTES)
        for metric in ("cosine", "euclidean"):
            same = (ours == scikit_learn(some, metric, neighbors)).double().mean()
            found[f"k{neighbors}_{metric}"] = round(100 * float(same), 3)
    return found


CONTESTANTS: dict[str, Callable[[Data], float]] = {
    "coterie knn": lambda data: knn(*data)["k20_t0.07_top1"],
    "scikit-learn, cosine": lambda data: accuracy(scikit_learn(data, "cosine"), data),
    "coterie knn, k = 20": lambda data: knn(*data, neighbors=(20,), temperatures=(0.07,))["k20_t0.07_top1"],
    "scikit-learn, euclidean": lambda data: accuracy(scikit_learn(data, "euclidean"), data),
}


def measure(data: Data, repeats: int) -> dict[str, dict[str, object]]:
    turns = {name: lambda probe=probe: probe(data) for name, probe in CONTESTANTS.items()}
    times, figures = alternate(turns, repeats)
    others = {metric: f"scikit-learn, {metric}" for metric in ("cosine", "euclidean")}
    return {name: {**compared(times, name, others), "top1": figures[name]} for name in CONTESTANTS}


def main() -> None:
    parser = probe_options(__doc__, "knn_probe")
    parser.add_argument("--queries", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    load = os.getloadavg()[0]
    data = unit_rows(options.rows, options.queries, options.width)
    same = agreement(data, 1000)
    result = measure(data, options.repeats)
    report = {
        "what": "unit rows -> accuracy; ratios are medians over repeats in turn",
        "aim": "3 times as fast as scikit-learn's cosine metric, 1.5 times its euclidean one",
        **circumstances(options, PACKAGES, load),
        "seed": SEED,
        "same_predictions_percent": same,
        "contestants": result,
    }
    print("same predictions, %:", json.dumps(same))
    show_rows(result)
    write_report(options.out, report)


if __name__ == "__main__":
    main()
