"""The linear probe beside scikit-learn's LogisticRegression, at equal accuracy.

    python benchmarks/linear_probe.py [--rows 50000] [--width 512] [--repeats 5] [--threads 2] [--out results.json]

The features are made as a network's are: overlapping classes in a space whose directions have sizes that fall as a power
law, turned, so that all features are correlated, then cut at zero, as after a ReLU. Contestants take turns, so that
whatever else the machine does meets them alike; a ratio is the median over the repeats of the ratio within a repeat. Ours
are timed from features to accuracy, standardization and checks included; scikit-learn is given
standardized features for nothing and is timed from there to accuracy:

* ``coterie linear``: as users call it, with the sweep of five penalties on held-out rows.
* ``coterie, C = 1``: only the fit of the problem that scikit-learn solves, C = 1 there.
* ``coterie SGD, five learning rates``: the sweep of learning rates of ten epochs of SGD, for comparison.
* ``scikit-learn, default``: C = 1 and at most 100 iterations, no choice of a penalty.
* ``scikit-learn, converged``: the same with as many iterations as its tolerance asks for.
* ``scikit-learn, same penalty``: with the penalty that ``coterie linear`` chose, to compare accuracies.

``alternating`` says why ``--threads 1`` and the ratio of CPU times say more on a machine with other work.
"""

import os
import warnings
from collections.abc import Callable

from alternating import alternate, circumstances, compared, limit_threads, probe_options, show_rows, write_report

THREADS = limit_threads("2")  # before numpy and torch come in

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from coterie.evaluation.probes.linear import FINAL_TOLERANCE, linear, linear_sgd
from coterie.evaluation.probes.logistic_regression import LinearClassifier, logistic_regression, loss_and_gradient
from coterie.evaluation.probes.standardize import Standardizer

PACKAGES = ("coterie", "numpy", "scikit-learn", "torch")
SEED = 0
TEST_ROWS = 10_000
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)

Data = tuple[Tensor, Tensor, Tensor, Tensor]
Found = dict[str, float]  # top1 and whatever else is worth a line
Contestant = Callable[[Data], Found]


def features(rows: int, width: int, classes: int, separation: float, power: float) -> Data:
    """Training rows and labels, test rows and labels."""
    random = np.random.default_rng(SEED)
    sizes = np.arange(1, width + 1) ** (-power / 2)
    centers = separation * random.standard_normal((classes, width)) * sizes
    turn = np.linalg.qr(random.standard_normal((width, width)))[0]
    labels = random.integers(0, classes, rows + TEST_ROWS)
    found = (centers[labels] + random.standard_normal((len(labels), width)) * sizes) @ turn
    made = torch.from_numpy(np.maximum(found, 0).astype(np.float32))
    numbers = torch.from_numpy(labels)
    return made[:rows].clone(), numbers[:rows], made[rows:].clone(), numbers[rows:]


def objective(weights: np.ndarray, bias: np.ndarray, data: Data) -> float:
    """Of the problem with C = 1, in float64: mean cross-entropy + |weights|^2 / (2 rows)."""
    train, labels = data[:2]
    model = LinearClassifier(torch.as_tensor(weights).double()[:, None], torch.as_tensor(bias).double()[:, None])
    loss, _ = loss_and_gradient(model, Standardizer.fit(train.double())(train.double()), labels)
    return float((loss[0] + model.weights.square().sum() / 2) / len(train))


def ours_exactly(data: Data) -> Found:
    train, labels, test, truth = data
    standard = Standardizer.fit(train)
    model = logistic_regression(
        train, labels, int(labels.max()) + 1, torch.ones(1), standardizer=standard, tolerance=FINAL_TOLERANCE
    )
    top1 = 100 * float((model.fold_standardizer(standard).scores(test)[:, 0].argmax(dim=0) == truth).double().mean())
    return {"top1": top1, "weights": model.weights[:, 0], "bias": model.bias[:, 0]}  # type: ignore[dict-item]


def scikit_learn(penalty: float | None, **settings: float) -> Contestant:
    def probe(data: Data) -> Found:
        train, labels, test, truth = (each.numpy() for each in data)
        strength = 1.0 if penalty is None else 1 / penalty
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged is written down
            model = LogisticRegression(C=strength, **settings).fit(train, labels)
        top1 = 100 * float(model.score(test, truth))
        found = {"top1": top1, "iterations": int(model.n_iter_[0])}
        return found | ({"weights": model.coef_, "bias": model.intercept_} if penalty is None else {})

    return probe


def contestants(penalty: float) -> dict[str, Contestant]:
    return {
        "coterie linear": lambda data: linear(*data),
        "scikit-learn, default": scikit_learn(None),
        "coterie, C = 1": ours_exactly,
        "scikit-learn, converged": scikit_learn(None, max_iter=10_000),
        "coterie SGD, five learning rates": lambda data: linear_sgd(
            *data, learning_rates=RATES, epochs=10, standardize=True
        ),
        "scikit-learn, same penalty": scikit_learn(penalty, max_iter=10_000),
    }


def measure(data: Data, repeats: int) -> dict[str, dict[str, object]]:
    """Seconds of each contestant in each repeat, by the wall and by CPU time, and what it found."""
    found = contestants(linear(*data)["penalty"])
    standard = Standardizer.fit(data[0])
    standardized = (standard(data[0]), data[1], standard(data[2]), data[3])
    given = {name: standardized if name.startswith("scikit-learn") else data for name in found}
    turns = {name: lambda probe=probe, name=name: probe(given[name]) for name, probe in found.items()}
    times, figures = alternate(turns, repeats)
    for result in figures.values():
        if "weights" in result:
            result["objective_C_1"] = objective(result.pop("weights"), result.pop("bias"), data)  # type: ignore[arg-type]
    others = {each: f"scikit-learn, {each}" for each in ("default", "converged")}
    return {name: {**compared(times, name, others), **figures[name]} for name in found}


def main() -> None:
    parser = probe_options(__doc__, "linear_probe")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--separation", type=float, default=0.15, help="of the classes, in deviations")
    parser.add_argument("--power", type=float, default=1.0, help="the i-th direction's variance is i to the minus this")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    load = os.getloadavg()[0]
    data = features(options.rows, options.width, options.classes, options.separation, options.power)
    spread = torch.linalg.eigvalsh(torch.corrcoef(data[0].T.double()))
    result = measure(data, options.repeats)
    report = {
        "what": "features -> accuracy (scikit-learn: standardized features -> accuracy); ratios: medians over repeats in turn",
        "aim": "2 times as fast as scikit-learn's LogisticRegression at equal accuracy",
        **circumstances(options, PACKAGES, load),
        "seed": SEED,
        "test_rows": TEST_ROWS,
        "condition_number_of_correlations": round(float(spread[-1] / spread[0]), 1),
        "contestants": result,
    }
    show_rows(result)
    write_report(options.out, report)


if __name__ == "__main__":
    main()
