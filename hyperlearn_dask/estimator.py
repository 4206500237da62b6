"""The Python interface: a scikit-learn style estimator over training and use."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hyperlearn_dask.config import TrainingSpec, encoder_from, placement_from, training_from
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.training.evidence import add_evidence, check_evidence
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.training.report import OnSweep
from hyperlearn_dask.training.streaming import bytes_of
from hyperlearn_dask.use import foldin
from hyperlearn_dask.use import rank as ranking

if TYPE_CHECKING:
    from distributed import Client


class HyperLearn:
    """Joint representations of the entities of a multimodal hypergraph.

    Parameters
    ----------
    rank
        Columns per entity, if ``groups`` does not say otherwise: one group, coupled by every relation.
    groups
        Columns per group, by name; a relation's ``interactions`` say which of its modalities a group
        couples.
    relations
        Settings per relation, by name: a mapping with any of ``absent`` ("zero", "unknown", "context"),
        ``weight``, ``interactions``, ``offset`` (a number or "mean"), ``target`` (what is ranked) and
        ``evidence`` (true: rank it by local evidence as well). Others keep their defaults.
    graph_weight
        mu, for all modalities that have a graph or by modality.
    encoders
        Settings per modality whose rows a learned graph convolution makes, by name: a mapping with any of
        ``on`` ("features", "free"), ``degree``, ``decay`` and ``own``, see
        :class:`hyperlearn_dask.config.EncoderSpec`. The features are the hypergraph's.
    ridge, schedule, sweeps, tolerance, validation, held_out, patience, start, seed, dtype, draws, burn_in,
    hyperparameters
        See :class:`hyperlearn_dask.config.TrainingSpec`.
    device
        ``cuda``: training keeps its data and factors on the GPU, or on each worker's; needs CuPy.
    placement
        On a cluster, any of ``scheme`` ("shards", "owner"), ``shards`` and ``owners``: see
        :class:`hyperlearn_dask.config.PlacementSpec`. It changes no result.
    memory_limit
        For training in this process, such as "2GiB"; by default what is left of the machine's. A stored
        relation that takes more than its share is read from the store in every sweep.

    Attributes
    ----------
    model_ : Model
        The trained model.
    factors_ : dict of ndarray
        The factor matrix (entities x rank) of every modality.
    ids_ : dict of ndarray
        The entity that each row of a modality's factor matrix belongs to.
    objective_ : float
        F at the end, of the best sweep where there was validation.
    history_ : tuple of dict
        One row per sweep: F, its parts, the step, seconds.

    Examples
    --------
    >>> from hyperlearn_dask import Hypergraph, HyperLearn
    >>> paintings = {"artist": ["Monet", "Monet", "Sisley"], "subject": ["water", "garden", "water"]}
    >>> hypergraph = Hypergraph.from_frames({"shows": (paintings, ["artist", "subject"])})
    >>> model = HyperLearn(rank=1, sweeps=20).fit(hypergraph)
    >>> [row.id for row in model.rank("subject", {"artist": "Sisley"}).rows][0]
    'water'
    """

    def __init__(
        self,
        rank: int = 16,
        *,
        groups: Mapping[str, int] | None = None,
        relations: Mapping[str, Mapping[str, Any]] | None = None,
        graph_weight: float | Mapping[str, float] = 1.0,
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
        ridge: float = 1e-2,
        schedule: Literal["parallel", "sequential"] = "parallel",
        sweeps: int = 100,
        tolerance: float = 1e-4,
        validation: str | None = None,
        held_out: float = 0.1,
        patience: int = 10,
        start: Literal["auto", "degree", "clustered", "random"] = "auto",
        seed: int = 0,
        dtype: Literal["float32", "float64"] = "float64",
        draws: int = 0,
        burn_in: int = 20,
        hyperparameters: Literal["fixed", "sampled"] = "fixed",
        device: Literal["cpu", "cuda"] = "cpu",
        placement: Mapping[str, Any] | None = None,
        memory_limit: str | None = None,
    ) -> None:
        # ``rank`` is a question to the model as well, so parameters live apart from the methods.
        self._params: dict[str, Any] = {
            "rank": rank,
            "groups": groups,
            "relations": relations,
            "graph_weight": graph_weight,
            "encoders": encoders,
            "ridge": ridge,
            "schedule": schedule,
            "sweeps": sweeps,
            "tolerance": tolerance,
            "validation": validation,
            "held_out": held_out,
            "patience": patience,
            "start": start,
            "seed": seed,
            "dtype": dtype,
            "draws": draws,
            "burn_in": burn_in,
            "hyperparameters": hyperparameters,
            "device": device,
            "placement": placement,
            "memory_limit": memory_limit,
        }
        self._model: Model | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; ``deep`` is there for scikit-learn and changes nothing."""
        return dict(self._params)

    def set_params(self, **params: Any) -> HyperLearn:
        """Change parameters by name; an unknown one is refused."""
        for name in params:
            if name not in self._params:
                raise InputError(f"no parameter '{name}' (HyperLearn has {', '.join(self._params)})")
        self._params.update(params)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(HyperLearn.__init__).parameters
        changed = [f"{k}={v!r}" for k, v in self._params.items() if v != defaults[k].default]
        return f"HyperLearn({', '.join(changed)})"

    def fit(
        self, hypergraph: Hypergraph, *, client: Client | None = None, on_sweep: OnSweep | None = None
    ) -> HyperLearn:
        """Train on a hypergraph, in this process or on a Dask client's workers; returns itself.

        A hypergraph that lives only in memory is written to a temporary store for the workers, so
        they must share this machine's disk.
        """
        if client is not None and hypergraph.path is None:
            from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph

            with tempfile.TemporaryDirectory(prefix="hyperlearn-") as folder:
                path = Path(folder) / "hypergraph.zarr"
                save_hypergraph(hypergraph, path)
                return self.fit(open_hypergraph(path), client=client, on_sweep=on_sweep)
        training = self._training()
        terms = self._terms(hypergraph)
        ranked = [name for name, term in terms.items() if term.evidence]
        for name in ranked:  # before hours of training
            check_evidence(hypergraph.relations[name], terms[name].absent, terms[name].target)
        device = self._params["device"]
        encoders = {m: encoder_from(m, given) for m, given in (self._params["encoders"] or {}).items()}
        problem = problem_of(hypergraph, terms, training, self._graph_weights(hypergraph), encoders)
        targets = {name: term.target for name, term in terms.items() if term.target is not None}
        limit = self._params["memory_limit"]
        # With that a training that local evidence is not learned for is not lost.
        self._model = fit(
            hypergraph,
            problem,
            training,
            targets=targets,
            device=device,
            client=client,
            on_sweep=on_sweep,
            placement=placement_from(self._params["placement"] or {}, hypergraph.modalities),
            memory_limit=None if limit is None else bytes_of(limit),
        )
        self._model = add_evidence(self._model, hypergraph, ranked, training)
        return self

    @property
    def model_(self) -> Model:
        if self._model is None:
            raise InputError("this HyperLearn is not trained yet; call fit first")
        return self._model

    @property
    def factors_(self) -> dict[str, np.ndarray]:
        return self.model_.factors

    @property
    def ids_(self) -> dict[str, np.ndarray]:
        return {name: modality.ids for name, modality in self.model_.modalities.items()}

    @property
    def history_(self) -> tuple[Mapping[str, Any], ...]:
        return self.model_.history

    @property
    def objective_(self) -> float:
        return float(self.model_.kept["objective"])

    def rank(
        self,
        target: str,
        given: Mapping[str, str],
        *,
        relation: str | None = None,
        top: int = 10,
        exclude: Collection[str] = (),
        with_uncertainty: bool = False,
    ) -> ranking.Ranking:
        """The entities of ``target`` that go best with the given ones: see :func:`..use.rank.rank`."""
        return ranking.rank(
            self.model_,
            target,
            given,
            relation=relation,
            top=top,
            exclude=exclude,
            with_uncertainty=with_uncertainty,
        )

    def similar(self, modality: str, entity: str, top: int = 10) -> ranking.Ranking:
        """The entities most like one of the same modality: see :func:`..use.rank.similar`."""
        return ranking.similar(self.model_, modality, entity, top)

    def encode(
        self, modality: str, features: Any = None, neighbours: Sequence[Mapping[str, float]] | None = None
    ) -> np.ndarray:
        """The rows of entities that training has not seen: see :func:`..use.foldin.encode`."""
        return foldin.encode(self.model_, modality, features, neighbours)

    def fold_in(
        self,
        modality: str,
        entity: str,
        *,
        hyperedges: Mapping[str, Sequence[foldin.Hyperedge]] | None = None,
        features: Any = None,
        neighbours: Mapping[str, float] | None = None,
        label: str | None = None,
    ) -> HyperLearn:
        """A copy that knows one more entity, without training again: see :func:`..use.foldin.fold_in`."""
        larger = HyperLearn(**self._params)
        larger._model = foldin.fold_in(
            self.model_,
            modality,
            entity,
            hyperedges=hyperedges,
            features=features,
            neighbours=neighbours,
            label=label,
        )
        return larger

    def _training(self) -> TrainingSpec:
        names = [field.name for field in dataclasses.fields(TrainingSpec)]
        columns = {"rank": self._params["rank"]} if self._params["groups"] is None else {}
        # Checked by the same rules as a dataset.toml.
        given = {name: self._params[name] for name in names if self._params[name] is not None}
        return training_from({name: _plain(value) for name, value in (columns | given).items()})

    def _terms(self, hypergraph: Hypergraph) -> dict[str, TermSettings]:
        given = self._params["relations"] or {}
        known = [f.name for f in dataclasses.fields(TermSettings)]
        for name, settings in given.items():
            if name not in hypergraph.relations:
                raise InputError(
                    f"no relation '{name}' (the hypergraph has {', '.join(hypergraph.relations)})",
                    key="relations",
                )
            for setting in settings:
                if setting not in known:
                    raise InputError(
                        f"unknown setting '{setting}' (expected one of {', '.join(known)})",
                        key=f"relations.{name}",
                    )
        return {name: TermSettings(**given.get(name, {})) for name in hypergraph.relations}

    def _graph_weights(self, hypergraph: Hypergraph) -> dict[str, float]:
        weight = self._params["graph_weight"]
        if isinstance(weight, Mapping):
            for name in weight:
                if name not in hypergraph.graphs:
                    raise InputError(f"no graph of modality '{name}'", key="graph_weight")
            return dict(weight)
        return dict.fromkeys(hypergraph.graphs, float(weight))


def _plain(value: Any) -> Any:
    """A setting with Python's own numbers in the place of NumPy's."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value.item() if isinstance(value, np.generic) else value
