"""What each part of a model is worth: the same settings without it, on the test hyperedges.

``python -m benchmarks.ablation NAME --data DIR --json FILE``, with the settings files of NAME that have the
most parts (:data:`WHOLE`). A part that a data set's settings do not have makes no row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.accuracy import SETTINGS, our_rows, prepare
from benchmarks.output import Row, report
from hyperlearn_dask.config import Dataset, EncoderSpec, ModalitySpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph

WHOLE = {"movielens-100k": ("dataset", "features"), "lastfm": ("evidence", "coupled"), "tate": ("evidence",)}
NO_FACTORS = 1e9  # a ridge that leaves nothing of them


@click.command()
@click.argument("name", type=click.Choice(list(WHOLE)))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the raw files.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs per variant.")
@click.option("--settings", "files", multiple=True, help="Only this one of the settings files of NAME.")
@click.option("--variant", "wanted", multiple=True, help="Only variants whose name contains this.")
def main(
    name: str, data: Path, output: Path | None, seeds: int, files: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    """The figures of the data set NAME without one part of the model after the other."""
    report(benchmark(name, data, seeds, files, wanted), output)


def benchmark(
    name: str, data: Path, seeds: int, files: Sequence[str] = (), wanted: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of every variant of a data set's model, or of those wanted."""
    if unknown := set(files) - set(WHOLE[name]):
        raise InputError(f"no settings {min(unknown)!r} of {name} (expected one of {', '.join(WHOLE[name])})")
    with tempfile.TemporaryDirectory() as folder:
        for settings in files or WHOLE[name]:
            dataset, hypergraph = prepare(SETTINGS / name / f"{settings}.toml", data, Path(folder))
            for title, changed, without in variants(dataset, hypergraph):
                title = title if settings == WHOLE[name][0] else f"{settings}, {title}"
                if not wanted or any(part in title for part in wanted):
                    for row in our_rows(name, f"hyperlearn {title}", changed, without, seeds):
                        yield replace(row, benchmark="ablation")


def variants(dataset: Dataset, hypergraph: Hypergraph) -> Iterator[tuple[str, Dataset, Hypergraph]]:
    """The whole model, then it without each of its parts."""
    yield "whole", dataset, hypergraph
    relations, training = dataset.relations, dataset.training
    if hypergraph.graphs:
        modalities = {m: replace(spec, graph=None) for m, spec in dataset.modalities.items()}
        yield "without graphs", replace(dataset, modalities=modalities), replace(hypergraph, graphs={})
        if not dataset.encoders:
            encoded = {m: _encoded(s) if m in hypergraph.graphs else s for m, s in dataset.modalities.items()}
            yield "learned convolution for graphs", replace(dataset, modalities=encoded), hypergraph
    if dataset.encoders:
        modalities = {m: replace(spec, encoder=None) for m, spec in dataset.modalities.items()}
        yield "without features", replace(dataset, modalities=modalities), hypergraph
    if training.hyperparameters == "sampled":
        fixed = replace(training, hyperparameters="fixed")
        even = {r: replace(spec, noise=()) for r, spec in relations.items()}
        yield "hyperparameters fixed", replace(dataset, training=fixed, relations=even), hypergraph
    if any(spec.noise for spec in relations.values()):
        even = {r: replace(spec, noise=()) for r, spec in relations.items()}
        yield "one noise for all", replace(dataset, relations=even), hypergraph
    if any(spec.interactions for spec in relations.values()):
        plain = {r: replace(spec, interactions=None) for r, spec in relations.items()}
        one_group = replace(training, groups={"all": sum(training.groups.values())})
        yield "without interactions", replace(dataset, relations=plain, training=one_group), hypergraph
    if any(spec.absent == "context" for spec in relations.values()):
        zeros = {
            r: replace(spec, absent="zero") if spec.absent == "context" else spec
            for r, spec in relations.items()
        }
        yield "without context", replace(dataset, relations=zeros), hypergraph
    tested = [r for r, spec in relations.items() if spec.test is not None]
    for name in tested if len(relations) > 1 else ():
        alone = {name: relations[name]}
        yield (
            f"without coupling, {name} alone",
            replace(dataset, relations=alone),
            replace(hypergraph, relations={name: hypergraph.relations[name]}),
        )
    if any(spec.evidence for spec in relations.values()):
        factors = {r: replace(spec, evidence=False) for r, spec in relations.items()}
        yield "without local evidence", replace(dataset, relations=factors), hypergraph
        nothing = replace(training, ridge=NO_FACTORS)
        yield "local evidence alone", replace(dataset, training=nothing), hypergraph


def _encoded(spec: ModalitySpec) -> ModalitySpec:
    """A modality whose graph is in its encoder, of the usual settings, and no longer in F."""
    assert spec.graph is not None
    return replace(spec, graph=replace(spec.graph, weight=0.0), encoder=EncoderSpec(on="free"))


if __name__ == "__main__":
    main()
