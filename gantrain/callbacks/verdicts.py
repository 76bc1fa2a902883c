"""Let the verdicts look for known failures of GANs, and report what they find."""

import logging
from copy import deepcopy
from typing import Any

from typing_extensions import override

from gantrain.callbacks.base import Callback, is_regular_record
from gantrain.evaluation.receipts import differ, score_of_real_images
from gantrain.seeding import unsharded
from gantrain.session.run import Run
from gantrain.train import TrainState
from gantrain.updates import Logs
from gantrain.verdicts.base import Finding, Undecided
from gantrain.verdicts.evidence import Evidence, History
from gantrain.verdicts.reference import Reference

logger = logging.getLogger(__name__)

METRIC = "metric/"
"""Prefix of the tags of metrics."""


class Verdicts(Callback):
    """Call the verdicts every `every` steps and at the last step, and report what they find.

    A finding is reported when it begins: in the terminal, in TensorBoard as a text under verdict/<name>, and in
    run.json. It is reported again only if it has been cleared in between. A finding of a verdict in verdict.stop ends
    the run after the step, except after the last step.
    """

    tags = ("verdict/",)

    def __init__(self, *, every: int):
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1.")
        self.every = every
        self.load_state_dict({})

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Scalars of the logged steps since the last check: pairs of the step and a dict.
        self.rows: list[Any] = deepcopy(state.get("rows", []))
        # For each metric, pairs of the step and the value, and the receipt of the values.
        self.scores: dict[str, list[Any]] = deepcopy(state.get("scores", {}))
        self.receipts: dict[str, Any] = deepcopy(state.get("receipts", {}))
        # For each verdict, the number of successive checks whose result would change whether its finding is open.
        self.streaks: dict[str, int] = dict(state.get("streaks", {}))
        # The state before the check at the last step, if that was not due at the interval.
        self.before_last: dict[str, Any] | None = deepcopy(state.get("before_last"))
        if state:
            self.run.findings = deepcopy(state["findings"])
            for name, verdict in self.run.verdicts.items():
                verdict.load_state_dict(deepcopy(state["verdicts"].get(name, {})))

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**self.snapshot(), "before_last": self.before_last}

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the state, without that before the last check."""
        return deepcopy(
            {
                "rows": self.rows,
                "scores": self.scores,
                "receipts": self.receipts,
                "streaks": self.streaks,
                "findings": self.run.findings,
                "verdicts": {name: verdict.state_dict() for name, verdict in self.run.verdicts.items()},
            }
        )

    @override
    def start(self, run: Run) -> None:
        evaluator = run.evaluator
        self.reference = Reference(
            run.dataset,
            run.latent,
            seed=run.config.seed,
            device=run.device,
            class_counts=run.class_counts,
            mirrored=run.config.horizontal_flip,
            extractor=evaluator.extractors["features"] if "features" in evaluator.by_extractor else None,
        )

    @override
    def rewind(self, state: TrainState) -> None:
        if self.before_last is not None and not self.survives_rewind(state.step):
            self.load_state_dict(self.before_last)
        survives = self.run.survives_rewind
        self.rows = [[step, scalars] for step, scalars in self.rows if any(survives(step, tag) for tag in scalars)]
        for name, values in self.scores.items():
            self.scores[name] = [[step, value] for step, value in values if survives(step, METRIC + name)]

    @override
    def survives_rewind(self, step: int) -> bool:
        return is_regular_record(self.run, step) or self.was_due(step)

    @override
    def scalars(self, state: TrainState, scalars: dict[str, float]) -> None:
        if not self.run.verdicts:
            return
        # Without the throughput, so that verdicts depend only on the config.
        self.rows.append([state.step, {tag: x for tag, x in scalars.items() if not tag.startswith("throughput/")}])
        for name in self.run.better:
            tag = METRIC + name
            if tag in scalars:
                receipt = self.run.receipts.get(tag)
                if differ(self.receipts.get(name), receipt):
                    self.scores[name] = []
                self.receipts[name] = receipt
                self.scores.setdefault(name, []).append([state.step, scalars[tag]])

    @override
    def __call__(self, state: TrainState, logs: Logs) -> None:
        is_due = self.is_due(state.step)
        if not self.run.verdicts or not (is_due or state.step == self.run.steps):
            return
        self.before_last = None if is_due else self.snapshot()
        evidence = Evidence(
            state,
            self.reference,
            self.run.objective,
            clock=self.run.clock,
            rows=[scalars for _, scalars in self.rows],
            scores=self.histories(),
            with_features=any(tag.startswith(METRIC) for tag in logs),
        )
        with unsharded():  # only rank 0 is here
            for name, verdict in self.run.verdicts.items():
                self.update(name, verdict(evidence), verdict.checks)
        self.rows = []

    def histories(self) -> dict[str, History]:
        """Return the values so far of each metric that has a direction."""
        histories = {}
        for name, sign in self.run.better.items():
            if name in self.scores:
                real = score_of_real_images(self.receipts.get(name))
                histories[name] = History(sign, [(step, value) for step, value in self.scores[name]], real)
        return histories

    def update(self, name: str, finding: Finding | Undecided | None, checks: int) -> None:
        """Open or clear the finding of a verdict, if as many successive checks as needed say so."""
        if isinstance(finding, Undecided):
            return
        open_findings = [known for known in self.run.findings if known["verdict"] == name and known["cleared"] is None]
        changes = (finding is not None) != bool(open_findings)
        self.streaks[name] = self.streaks.get(name, 0) + 1 if changes else 0
        if self.streaks[name] < checks:
            return
        self.streaks[name] = 0
        if finding is not None and not open_findings:
            self.report(name, finding)
        for known in open_findings if finding is None else ():
            self.clear(known)

    def report(self, name: str, finding: Finding) -> None:
        """Report a new finding, and end the run if verdict.stop says so."""
        step, texts = self.run.state.step, {"evidence": finding.evidence, "advice": finding.advice}
        self.run.findings.append({"verdict": name, "step": step, **texts, "cleared": None})
        text = f"{finding.evidence} What usually helps: {finding.advice}"
        logger.warning("verdict %s at step %s: %s", name, f"{step:,}", text)
        self.run.publish_markdown(f"verdict/{name}", text)
        if name in self.run.config.verdict.get("stop", []) and step < self.run.steps:
            self.run.stopped_by = self.run.stopped_by or name

    def clear(self, known: dict[str, Any]) -> None:
        """Report that a finding is cleared."""
        step = known["cleared"] = self.run.state.step
        text = f"cleared at step {step:,}; it was found at step {known['step']:,}."
        logger.info("verdict %s: %s", known["verdict"], text)
        self.run.publish_markdown(f"verdict/{known['verdict']}", text.capitalize())
