"""A front's members trained again with other seeds, in one session, from a plan to its results."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from rich.console import Console

from vpetl_ray.confirm_display import ConfirmDisplay
from vpetl_ray.confirm_source import ConfirmPlan
from vpetl_ray.job_steps import connect, list_videos, prepare_clips, setup_groups, tracking_store
from vpetl_ray.results.confirmed import Confirmation, write_confirmed
from vpetl_ray.results.records import EpochRow, TrialRecord
from vpetl_ray.results_folder import STUDY_FILE, locked
from vpetl_ray.tuning.dispatcher_actor import start_dispatcher
from vpetl_ray.tuning.search_id import search_id_of
from vpetl_ray.tuning.seed_runs import SeedRuns
from vpetl_ray.tuning.worker_group import worker_groups


@dataclass(frozen=True, kw_only=True)
class ConfirmResult:
    """How it ended, for the door to say."""

    confirmation: Confirmation
    is_whole: bool
    """Nobody interrupted it."""
    mlflow_problem: str | None
    """Why MLflow was not told."""


class ConfirmFiles:
    """Watches the runs (see `tuning.searcher.SearchObserver`), and keeps each as it ends."""

    def __init__(self, plan: ConfirmPlan, known: Confirmation) -> None:
        self._directory = plan.directory
        self._places = {
            run.record.id: (run.record.id.rpartition("-seed")[0], run.seed) for run in plan.runs
        }
        self.known = known

    def on_start(self, trial_id: str, trainable_params: int, name: str | None) -> None:
        """Nothing is written about a run that has not ended."""

    def on_epoch(self, trial_id: str, row: EpochRow) -> None:
        """See `on_start`."""

    def on_record(self, record: TrialRecord) -> None:
        """Keep a run.

        Raises:
            SearchError: the file cannot be written.
        """
        member, seed = self._places[record.id]
        self.known = self.known.with_record(member, seed, record)
        write_confirmed(self._directory, self.known)


class ConfirmJob:
    """Does what is missing of a plan, on one cluster, into the search's own folder.

    Args:
        plan: what there is to do.
        address: of a Ray cluster, None for a private one.
        console: where to show how far it is.
    """

    def __init__(self, plan: ConfirmPlan, *, address: str | None, console: Console) -> None:
        self._plan = plan
        self._address = address
        self._display = ConfirmDisplay(console, name=plan.known.name, num_runs=len(plan.runs))

    def run(self) -> ConfirmResult:
        """Train, test, keep, write the model cards anew, and tell MLflow.

        Raises:
            SpecError, DataError, CheckpointError: the input is wrong; nothing was changed.
            SearchError: it cannot go on; what was finished is kept.
        """
        plan = self._plan
        with ExitStack() as stack:
            stack.enter_context(self._display)
            stack.enter_context(locked(plan.directory))
            known, is_whole = plan.known, True
            if plan.runs:
                known, is_whole = self._train(stack)
            problem = None
            if is_whole:  # else the next run tells all
                self._display.stage("telling MLflow")
                problem = self._tell_mlflow(known)
        return ConfirmResult(confirmation=known, is_whole=is_whole, mlflow_problem=problem)

    def _train(self, stack: ExitStack) -> tuple[Confirmation, bool]:
        plan, spec = self._plan, self._plan.spec
        data = spec.data_config()
        videos = list_videos(data, self._display)
        spec.check_classes(len(videos.classes))
        store = prepare_clips(data, self._display, videos=videos, address=self._address)
        setup = setup_groups(spec, store)
        self._display.stage("starting Ray")
        groups = connect(stack, spec, self._address, at_most=len(plan.runs))
        self._display.stage(f"starting {groups.sentence}")
        dispatcher = start_dispatcher(stuck_seconds=groups.stuck_seconds)
        stack.enter_context(worker_groups(setup, groups, dispatcher)).wait_for_first()
        num_test = len(store.split("test", data.view_spec()))
        files = ConfirmFiles(plan, replace(plan.known, num_test_clips=num_test))
        self._display.begin(plan.runs)
        runs = SeedRuns(
            dispatcher,
            plan.runs,
            num_concurrent=groups.num_groups,
            observers=[self._display, files],
            keep_tensors=lambda record, tensors: None,
            with_views=False,
        )
        is_whole = runs.run()
        return files.known, is_whole

    def _tell_mlflow(self, known: Confirmation) -> str | None:
        # Here: they take seconds to import.
        from vpetl_ray.results.card_files import renew_cards  # noqa: PLC0415
        from vpetl_ray.results.mlflow_confirm import tell_mlflow  # noqa: PLC0415

        if not known.scores:
            return None
        uri, _ = tracking_store(self._plan.spec, self._plan.directory)
        search_id = search_id_of(self._plan.directory / STUDY_FILE)
        directory = self._plan.directory
        cards = renew_cards(directory, [member.id for member in known.members if member.done])
        return tell_mlflow(uri, search_id, known, directory, cards)
