"""What the model card of an exported run says: method, images, length, figures."""

from pathlib import Path

from coterie.exporting.model_card import CardFacts
from coterie.formatting import counted, format_number, is_number
from coterie.reporting.run_figures import probe_figures, read_run_record, unfinished_remarks
from coterie.training.run_folder import read_records


def run_card(run: Path, license: str) -> CardFacts:  # noqa: A002 -- as the hub calls it
    """Read a run's folder; what is missing or damaged is left out.

    Args:
        run: its folder.
        license: of the weights.

    Raises:
        BadRun: the folder has no ``config.toml``.
    """
    record, facts = read_run_record(run, run.name), read_records(run).facts
    settings = record.settings
    origin = [f"Self-supervised by Coterie, without labels; method: {settings.get('method', 'unknown')}."]
    if record.images is not None:
        origin.append(f"{record.images:,} images of {settings.get('views', {}).get('image_size', '?')} pixels.")
    length = [f"{record.steps:,} steps"] if record.steps is not None else []
    length += [f"{settings['batch_size']:,} images per step"] if is_number(settings.get("batch_size")) else []
    length += [f"{counted(settings['epochs'], 'epoch')} planned"] if "epochs" in settings else []
    if length:
        origin.append(f"{', '.join(length)}; seed {settings.get('seed', 0)}.")
    if isinstance(facts.get("start"), str):
        origin.append(f"It started from other weights: {facts['start']}.")
    loss = next((line["loss"] for line in reversed(record.log) if is_number(line.get("loss"))), None)
    figures = {name: format_number(value) for name, value in probe_figures(record).items()}
    figures |= {} if loss is None else {"Loss of the last step in the log": format_number(loss)}
    limits = [*unfinished_remarks(record)]
    if not probe_figures(record):
        limits.append("Not evaluated on labels: `coterie evaluate RUN LABELED` does.")
    return CardFacts(license, origin, figures, limits)
