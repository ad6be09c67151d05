"""One step over the parameters of a `torch.optim` optimizer, over torch's own state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adamas import parts, storage
from adamas.errors import ArgumentError, ArrayError, FaultError
from adamas.kernels.rows import check_rule
from adamas.rule import Clip, Hyper, clip_factor
from adamas.storage import Description
from adamas.telemetry import Statistics, of_step
from adamas.torch.checks import Settings, names_of, read_group, tensor_names
from adamas.torch.memory import as_array, gradient
from adamas.torch.prepared import Asked, Prepared, prepare, stored_as
from adamas.torch.tables import Sums, add_up
from adamas.torch.watch import READS, changed


class Stepper:
    """Steps the parameters of a `torch.optim.Adam` or one of its family natively, over torch's own state.

    It remembers where all buffers are from one step to the next, and looks again when one was replaced.

    Args:
        settings: what torch has no arguments for. None: only what torch's own step computes too, to rounding; so no
            parameters of 16 bits, whose moments torch keeps in 16 bits.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings, self._low = settings or Settings(), settings is not None
        self._prepared = Prepared()
        self._table: tuple[list[Hyper], np.ndarray] = ([], np.zeros((0, 0)))
        self._last: tuple[list[bool], float] | None = None  # who took part in the last step; its grad_scale
        self.skipped = 0
        self.norm: float | None = None

    def step(self, optimizer: torch.optim.Optimizer, *, max_norm: float | None = None, grad_scale: float = 1.0) -> None:
        """One step of every parameter that has a gradient.

        Args:
            optimizer: of torch.
            max_norm, grad_scale: see `Adam.step`.

        Raises:
            UnsupportedError, ArrayError, ArgumentError, StateError, NonFiniteError: see `Adam.step`. Nothing has been
                changed.
        """
        clip, grad_scale = parts.check_scaling(max_norm, grad_scale)
        groups = optimizer.param_groups
        read = [read_group(group, optimizer) for group in groups]
        asked = [Asked(rule, *self._stored(group)) for (rule, _), group in zip(read, groups, strict=True)]
        table = self._tabulate([hyper for _, hyper in read])
        grads = self._prepared.gradients(optimizer, asked)
        fits = grads is not None
        if grads is None:
            grads = [p.grad for group in groups for p in group["params"]]
        rows = self._take_rows(grads, groups) if self._settings.sparse == "lazy" else {}
        if not fits or any(i not in self._prepared.tables for i in rows):
            self.settle()
            self._prepared, self._last = prepare(optimizer, asked, self._settings, self._low), None
        self.norm = None
        if not self._prepared.parts:
            return
        stepped = self._prepared.params
        if parts.has_none(grads):
            stepped = [p for i, p in enumerate(stepped) if grads[i] is not None or i in rows]
        for i, own in self._prepared.tables.items():
            if grads[i] is not None:
                own.settle()
        try:
            taken = self._run_anyhow(grads, rows, groups, table, clip, grad_scale)
        except FaultError:
            changed(stepped)
            raise
        if taken:
            changed(stepped)

    def forget(self) -> None:
        """Look at everything again at the next step: another state was loaded."""
        self._prepared, self._last = Prepared(), None

    def settle(self) -> None:
        """Decay what rows of tables keep, and have missed while they had no gradient, to the present."""
        for table in self._prepared.tables.values():
            table.settle()

    def stats(self) -> Statistics:
        """What the last step did.

        Raises:
            ArgumentError: there is none, or it was not told to collect statistics.
        """
        if not self._settings.stats:
            raise ArgumentError("the optimizer collects no statistics; make it with stats=True")
        if self._last is None:
            raise ArgumentError("there is no step yet to have statistics of; call step first")
        now, (took_part, grad_scale) = self._prepared, self._last
        taken = [
            (now.names[i], now.params[i].numel(), sums)
            for part in now.parts
            for i, sums in zip(part.members, part.sums.tolist(), strict=True)
            if took_part[i]
        ]
        steps = max(int(part.taken.max()) for part in now.parts)
        return of_step(steps, self.skipped, taken, grad_scale)

    def describe(self, optimizer: torch.optim.Optimizer) -> Description:
        """How the state of each parameter is stored, once it has taken a step."""
        groups, average = optimizer.param_groups, self._settings.ema is not None
        found, names = [], iter(tensor_names(groups))
        for k, group in enumerate(groups):
            rule, _ = read_group(group, optimizer)
            for p in group["params"]:
                name, dtype = next(names), as_array(p.detach()).dtype
                how = stored_as(rule, p, name, *self._stored(group))
                found.append(storage.described(rule, how, name, tuple(p.shape), dtype, f"group {k}", average))
        return Description(found)

    def check_stored(self, group: dict[str, Any], names: Sequence[str], optimizer: object) -> None:
        """Nothing if the parameters of a group, of these names, can be stored as it asks for.

        Raises:
            ArgumentError: they cannot; names the first.
            UnsupportedError: its rule has no lazy rows, with sparse="lazy".
        """
        rule, _ = read_group(group, optimizer)
        if self._settings.sparse == "lazy":
            check_rule(rule)
        for name, p in zip(names, group["params"], strict=True):
            stored_as(rule, p, name, *self._stored(group))

    def _take_rows(self, grads: list[Tensor | None], groups: Sequence[dict[str, Any]]) -> dict[int, Sums]:
        """The sparse gradients, added up, by their places; they are taken out of the list."""
        params = [p for group in groups for p in group["params"]]
        found = {
            i: add_up(names_of(groups)[i], g, params[i])
            for i, g in enumerate(grads)
            if g is not None and g.layout != torch.strided
        }
        for i in found:
            grads[i] = None
        return found

    def _run_anyhow(
        self,
        grads: list[Tensor | None],
        rows: dict[int, Sums],
        groups: Sequence[dict[str, Any]],
        table: np.ndarray,
        clip: Clip | None,
        grad_scale: float,
    ) -> bool:
        """The step, with gradients as they are if they can be read so; nothing is written where they cannot."""
        if READS and not self._prepared.negated(grads):
            try:
                return self._run(grads, rows, table, clip, grad_scale)
            except ArrayError:
                pass  # one is not contiguous, or sparse, or not there at all: look closer
        arrays = _arrays(grads, groups, self._low)
        try:
            return self._run(arrays, rows, table, clip, grad_scale)
        except ArrayError:  # one is not contiguous, or shares memory with a parameter
            apart = [g if g is None else np.array(g, order="C") for g in arrays]
            return self._run(apart, rows, table, clip, grad_scale)

    def _run(
        self, grads: list[Any], rows: dict[int, Sums], table: np.ndarray, clip: Clip | None, grad_scale: float
    ) -> bool:
        """The step; False where it was skipped."""
        now = self._prepared
        check = now.nonfinite != "propagate"
        for part, steps in zip(now.parts, now.steps, strict=True):
            part.taken[:] = steps
        try:
            norm = parts.step(
                now.parts,
                grads,
                table,
                clip=clip,
                grad_scale=grad_scale,
                check=check,
                average_decay=self._settings.ema,
                statistics=self._settings.stats,
                beside={i: own.squares for i, own in rows.items()} if check or clip is not None else None,
            )
            skipped = check and norm is not None and not parts.can_square(now.parts, norm)
            if rows and not skipped:
                factor = 1.0 if clip is None or norm is None else clip_factor(clip.kind, norm, clip.bound)
                self._step_rows(rows, grad_scale * factor)
        except FaultError:  # the step has been taken
            self._remember(grads, grad_scale)
            raise
        finally:  # Ctrl-C finds moments and steps that belong together
            for part, steps in zip(now.parts, now.steps, strict=True):
                steps[:] = part.taken
        self.norm = norm
        if skipped:
            if now.nonfinite == "raise":
                arrays = [g if g is None or isinstance(g, np.ndarray) else as_array(g.detach()) for g in grads]
                for i, own in rows.items():
                    arrays[i] = own.dense
                raise parts.not_finite(now.parts, now.names, arrays, grad_scale)
            self.skipped += 1
            return False
        self._remember(grads, grad_scale)
        return True

    def _step_rows(self, rows: dict[int, Sums], grad_scale: float) -> None:
        hypers, now = self._table[0], self._prepared
        for part in now.parts:
            for k, i in enumerate(part.members):
                if i in rows:
                    t = int(part.taken[k]) + 1
                    now.tables[i].step(hypers[0 if part.rows is None else part.rows[k]], t, rows[i], grad_scale)
                    part.taken[k] = t

    def _remember(self, grads: list[Any], grad_scale: float) -> None:
        if self._settings.stats:
            self._last = [g is not None for g in grads], grad_scale

    def _stored(self, group: dict[str, Any]) -> tuple[str, str]:
        return group.get("moments", self._settings.moments), group.get("weights", self._settings.weights)

    def _tabulate(self, hypers: list[Hyper]) -> np.ndarray:
        if hypers != self._table[0]:
            self._table = (hypers, np.array([astuple(hyper) for hyper in hypers], np.float64))
        return self._table[1]


def _arrays(grads: list[Tensor | None], groups: Sequence[dict[str, Any]], sparse: bool) -> parts.Gradients:
    """The gradients as NumPy arrays, over the same memory where they are dense."""
    try:
        return [g if g is None else as_array(g) for g in grads]
    except (TypeError, RuntimeError):
        return [gradient(name, g, sparse) for name, g in zip(names_of(groups), grads, strict=True)]
