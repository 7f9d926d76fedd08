"""What the commands take before and beside their real work, over ``python -c "import torch, timm"``, in CPU time of one thread.

    python benchmarks/startup.py [--images 1000] [--repeats 5] [--toy] [--out benchmarks/results/startup.json]

In turn, each in a process of its own, with compiled modules in a cache as an installed package has them:

* ``pretrain``: ``coterie pretrain swav IMAGES`` until the first training step begins, its rehearsal cached, workers included;
* ``evaluate``: ``coterie evaluate RUN TRAIN --test TEST``, without what passes in embedding images and in probes;
* ``report``: ``coterie report RUN``, without what passes in embedding images; and that without the map of t-SNE as well.

Images are made: noise of low frequency, 32 to 64 pixels a side, half PNG and half JPEG, in ten folders.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

from alternating import RESULTS, Times, circumstances, limit_threads, ratio, show_rows, write_report

BASELINE = "import torch, timm"
CLASSES, SIDES, TEST_SHARE = 10, (32, 65), 5
SOURCES = Path(__file__).resolve().parents[1] / "src"


def make_images(folder: Path, count: int) -> None:
    """Write noise of low frequency as image files."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        side = int(random.integers(*SIDES))
        noise = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        path = folder / f"class_{number % CLASSES}" / f"{number:05d}.{('png', 'jpg')[number // CLASSES % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise.resize((side, side), Image.Resampling.BICUBIC).save(path)


def tree_seconds(process: int) -> float:
    """CPU time of a process and of the processes that it has started and that still live."""
    root = Path("/proc") / str(process)
    try:
        fields = (root / "stat").read_text().rpartition(")")[2].split()
        own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        children = [int(each) for task in (root / "task").iterdir() for each in (task / "children").read_text().split()]
    except FileNotFoundError:  # it has just ended
        return 0.0
    return own + sum(map(tree_seconds, children))


def measured_command(words: list[str]) -> None:
    """In a process of its own: run a command, and print its CPU time as JSON, without that of its real work."""
    from coterie.cli.importing import importing

    with importing():  # as the command does
        import torch

        from coterie.embedding import embed
        from coterie.evaluation.probes import embedding_probes
        from coterie.models.encoder import Encoder
        from coterie.reporting import embedding_map

    apart: dict[str, float] = defaultdict(float)

    def first_step(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, Encoder) and module.training:
            leave({"seconds": tree_seconds(os.getpid())})

    if words[0] == "pretrain":
        torch.nn.modules.module.register_module_forward_pre_hook(first_step)
    set_apart(embed, "embed_source", apart)
    set_apart(embedding_probes, "probe_embeddings", apart)
    set_apart(embedding_map, "tsne_layout", apart)
    from coterie.cli.main import main

    sys.argv = ["coterie", *words]
    main()
    layout = apart.pop("tsne_layout", 0.0)
    rest = time.process_time() - sum(apart.values())
    leave({"seconds": rest, "without_map": rest - layout})


def set_apart(module: Any, name: str, apart: dict[str, float]) -> None:
    """Replace a function, before it is imported elsewhere, by one that adds up its CPU time."""
    function = getattr(module, name)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return function(*given, **named)
        finally:
            apart[name] += time.process_time() - began

    setattr(module, name, timed)


def leave(found: dict[str, float]) -> NoReturn:
    """Print, and end this process without another word."""
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


def run(words: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run Python in a process of its own: its CPU time and wall time, and what it prints last, if that is JSON."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *words], env=environment, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().strip()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{said}")
    last = said.splitlines()[-1] if said else ""
    found = {"seconds": usage.ru_utime + usage.ru_stime} | (json.loads(last) if last.startswith("{") else {})
    return found | {"wall": time.perf_counter() - began}


def measure(options: argparse.Namespace, work: Path) -> dict[str, Times]:
    """Prepare images, a run and a cached rehearsal; then let the contestants take turns."""
    images, test, finished = work / "images", work / "test", work / "finished"
    make_images(images, options.images)
    make_images(test, options.images // TEST_SHARE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"COTERIE_CACHE": str(work / "cache"), "PYTHONPYCACHEPREFIX": str(work / "compiled")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
    tiny = ["--backbone", "test_resnet", "--set", "views.crops.0.size=16", "--set", "views.crops.1.size=8"]
    new = ["pretrain", "swav", str(images), *(tiny if options.toy else []), "--out"]
    short = [*tiny, "--epochs", "1", "--set", "run.snapshots=0"]
    run(["-m", "coterie", "pretrain", "swav", str(images), *short, "--out", str(finished)], environment)
    run(["-m", "coterie", "plan", *new[1:-1]], environment)  # its rehearsal is that of pretrain
    child = [__file__, "--child"]
    contestants = {
        "torch_timm": lambda turn: ["-c", BASELINE],
        "pretrain": lambda turn: [*child, *new, str(work / f"run{turn}")],
        "evaluate": lambda turn: [*child, "evaluate", str(finished), str(images), "--test", str(test)],
        "report": lambda turn: [*child, "report", str(finished)],
    }
    times: dict[str, Times] = defaultdict(Times)
    for turn in range(options.repeats + 1):
        for name, words in contestants.items():
            found = run(words(turn), environment)
            if turn == 0:  # compiles modules, embeds what evaluate keeps
                continue
            times[name].cpu.append(found["seconds"])
            times[name].wall.append(found["wall"])
            if name == "report":
                times["report_without_map"].cpu.append(found["without_map"])
                times["report_without_map"].wall.append(found["wall"])
    return times


def main() -> None:
    """Measure, and write the result."""
    if sys.argv[1:2] == ["--child"]:
        measured_command(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="a tiny network for pretrain too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.json")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="coterie-startup-") as work:
        times = measure(options, Path(work))
    rows = {
        name: each.rounded() | {"times_torch_timm": round(1 / ratio(times, name, "torch_timm", "cpu"), 3)}
        for name, each in times.items()
    }
    show_rows(rows)
    packages = ("torch", "timm", "pyarrow", "scikit-learn", "pillow")
    write_report(options.out, circumstances(options, packages, load) | {"baseline": BASELINE, "contestants": rows})


if __name__ == "__main__":
    limit_threads()
    main()
