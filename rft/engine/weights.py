"""How the trainer's weights become the engine's: three ways, each proved before it is used.

shared    the trainer's parameters are slices of the engine's tensors. The optimizer writes what the
          engine reads: nothing is copied, publishing is dropping stale caches.
copy      the trainer keeps its own (float32) parameters; publishing copies each into the engine's slice.
adapter   the base is shared and frozen; publishing swaps a LoRA adapter in place.

A binding is believed only after a proof: disturb the trainer's weights, publish, and see both sides give
the same, changed log-probabilities; then restore. When that fails the next way is tried, and why is kept.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rft import background
from rft.engine.base import Parity, Published, Sampling
from rft.engine.views import BindingError, engine_views
from rft.engine.vllm import VLLMEngine
from rft.errors import EngineError

log = logging.getLogger("rft")

MODES = ("shared", "copy", "adapter")


class PolicyLike(Protocol):
    """What a binding needs of `rft.models.policy.Policy`."""

    model: nn.Module
    adapter: bool

    def base_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def trained_parameters(self) -> list[nn.Parameter]: ...
    def score(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Tensor: ...


class Weights:
    """The bond between one policy and one engine: `mode` holds, `refused` says why others do not."""

    def __init__(
        self, engine: VLLMEngine, policy: PolicyLike, *, tolerance: float, probe_ids: Sequence[Sequence[int]]
    ):
        """See `bind`, which also proves the bond.

        Args:
            tolerance: largest mean |difference of log-probabilities|, nats.
            probe_ids: prompts, as token ids, on which parity is measured.
        """
        self.engine, self.policy, self.tolerance = engine, policy, tolerance
        self.mode = ""
        self.refused: dict[str, str] = {}
        # A prompt of one token predicts nothing of itself; twice, it does.
        self._probe_ids = [list(ids) * (2 if len(ids) == 1 else 1) for ids in probe_ids]
        self._views: dict[str, Tensor] = {}
        self._base_is_shared = False
        self._adapter_dir: Path | None = None

    # --- while training ------------------------------------------------------------------------

    @contextmanager
    def writing(self, version: int) -> Iterator[None]:
        """Hold this while the optimizer writes. Shared weights are the engine's: it waits, then goes on
        under `version`."""
        if self.mode != "shared":
            yield
            return
        with self.engine.paused():
            yield
            self.engine.weights_changed(version)

    def publish(self, version: int) -> Published:
        """Makes the engine sample with the policy's weights as they are now."""
        started = time.perf_counter()
        copied = 0
        if self.mode == "shared":
            if self.engine.version != version:
                with self.engine.paused():
                    self.engine.weights_changed(version)
        elif self.mode == "copy":
            with self.engine.paused():
                copied = self._copy()
                self.engine.weights_changed(version)
        else:
            copied = self._swap_adapter(version)
        return Published(version, self.mode, time.perf_counter() - started, copied)

    def parity(self) -> Parity:
        """Engine and trainer on the probe prompts: tokens the engine samples now, scored by both."""
        sampling = [Sampling(max_tokens=12, seed=number, extra={"ignore_eos": True}) for number in range(4)]

        async def sample() -> list[Any]:
            prompts = [self._probe_ids[number % len(self._probe_ids)] for number in range(len(sampling))]
            return list(
                zip(prompts, await asyncio.gather(*map(self.engine.generate, prompts, sampling)), strict=True)
            )

        differences = []
        for prompt, completion in background.run(sample()):
            ours = self.policy.score(prompt, completion.token_ids)
            differences.append((ours - torch.tensor(completion.logprobs)).abs())
        difference_N = torch.cat(differences)
        return Parity(difference_N.mean().item(), difference_N.max().item(), difference_N.numel())

    def check(self) -> Parity:
        """Parity now, and that shared storage is still shared.

        Raises:
            BindingError: they differ by more than the tolerance, or a parameter has moved.
        """
        if self._base_is_shared:
            for name, parameter in self.policy.base_parameters():
                if parameter.data_ptr() != self._views[name].data_ptr():
                    raise BindingError(f"{name} no longer lives in the engine's memory")
        parity = self.parity()
        if not parity.mean <= self.tolerance:
            raise BindingError(
                f"engine and trainer differ by {parity.mean:.2g} nats on average "
                f"(at most {self.tolerance:.2g} is allowed)"
            )
        return parity

    def fall_back(self, reason: str) -> Parity:
        """Leaves a way that stopped holding for the next one, proved anew.

        Raises:
            BindingError: there is no next way.
        """
        self.refused[self.mode] = reason
        if self.mode != "shared":
            raise BindingError(f"publishing by {self.mode} stopped holding: {reason}")
        self._part()
        self.mode = "copy"
        self.publish(self.engine.version)
        return self.check()

    def close(self) -> None:
        """Removes the published adapter's files."""
        if self._adapter_dir is not None:
            shutil.rmtree(self._adapter_dir, ignore_errors=True)

    # --- making the bond -----------------------------------------------------------------------

    def try_mode(self, mode: str) -> Parity:
        """Binds one way and proves it. Raises BindingError and says why when it does not hold."""
        try:
            self._find_views()
            if mode != "copy":
                self._share()
        except BindingError as error:
            if mode == "shared":
                raise
            # An adapter's base may have its own memory, and copying can go by vLLM's own loader.
            self.refused["shared"] = str(error)
        self.mode = mode
        if mode == "adapter":
            self._adapter_dir = Path(tempfile.mkdtemp(prefix="rft-adapter-"))
        try:
            self.publish(self.engine.version)
            return self._prove()
        except BindingError:
            self._part()  # the next way must not write into the engine by accident
            raise

    def _find_views(self) -> None:
        """Raises BindingError unless every view holds what the trainer loaded, to the coarser dtype."""
        if self._views:
            return
        parameters = dict(self.policy.base_parameters())
        views = engine_views(self.engine.model, {name: values.shape for name, values in parameters.items()})
        for name, parameter in parameters.items():
            view, values = views[name], parameter.data.to(views[name].device)
            coarser = min(view.dtype, values.dtype, key=lambda dtype: dtype.itemsize)
            if not torch.equal(view.to(coarser), values.to(coarser)):
                raise BindingError(f"the engine holds other values for {name}")
        self._views = views

    def _share(self) -> None:
        parameters = dict(self.policy.base_parameters())
        for name, parameter in parameters.items():
            view = self._views[name]
            if view.dtype != parameter.dtype:
                raise BindingError(f"the engine holds {view.dtype}, the trainer {parameter.dtype}")
            if view.is_inference():
                raise BindingError(f"the engine made {name} in inference mode; autograd cannot use it")
        for name, parameter in parameters.items():
            parameter.data = self._views[name]
        self._base_is_shared = True

    def _part(self) -> None:
        """Gives the trainer memory of its own wherever it is the engine's."""
        self._base_is_shared = False
        for name, parameter in self.policy.base_parameters():
            if name in self._views and parameter.data_ptr() == self._views[name].data_ptr():
                parameter.data = parameter.data.clone()

    def _prove(self) -> Parity:
        """Disturb, publish, compare, restore.

        The disturbance grows until the policy has moved four times as far as engine and trainer differ at
        rest (bfloat16 rounding); then a weight that did not reach the engine shows. Rounding grows with the
        weights, so a small share of that movement is allowed: of some hundred weights, each has a larger one.
        """
        at_rest = self.check()
        trained = self.policy.trained_parameters()
        kept = [parameter.detach().to("cpu", copy=True) for parameter in trained]
        before = self._probe_logprobs()
        try:
            for strength in (0.05, 0.2, 0.8, 3.2):
                with self._writing_now():
                    for number, (parameter, values) in enumerate(zip(trained, kept, strict=True)):
                        parameter.data.copy_(_disturbed(values, strength, number))
                moved = (self._probe_logprobs() - before).abs().mean().item()
                if moved > max(4 * at_rest.mean, 0.01):
                    break
            else:
                raise BindingError(
                    f"disturbing the weights moved the policy by {moved:.2g} nats only; nothing is proved"
                )
            self.publish(self.engine.version)
            disturbed = self.parity()
            rounding = 1e-3 if self._is_float32() else 2e-2
            if not disturbed.mean <= max(2 * at_rest.mean, rounding * moved):
                raise BindingError(
                    f"after a change of weights engine and trainer differ by {disturbed.mean:.2g} nats"
                )
        finally:
            with self._writing_now():
                for parameter, values in zip(trained, kept, strict=True):
                    parameter.data.copy_(values)
            self.publish(self.engine.version)
        return at_rest

    def _is_float32(self) -> bool:
        both = (*self.policy.model.parameters(), *self.engine.model.parameters())
        return all(parameter.dtype == torch.float32 for parameter in both)

    def _writing_now(self) -> Any:
        return self.writing(self.engine.version)

    def _probe_logprobs(self) -> Tensor:
        """The policy's log-probabilities on the probe prompts themselves; [tokens]."""
        return torch.cat([self.policy.score(ids[:1], ids[1:]) for ids in self._probe_ids])

    @torch.no_grad()
    def _copy(self) -> int:
        """Copies every parameter into the engine; returns the bytes written."""
        if not self._views:  # an architecture whose fused tensors only vLLM's own loader can fill
            named = [(name, parameter.data) for name, parameter in self.policy.base_parameters()]
            self.engine.model.load_weights(iter(named))
            return sum(tensor.nbytes for _, tensor in named)
        for name, parameter in self.policy.base_parameters():
            self._views[name].copy_(parameter.data)
        return sum(view.nbytes for view in self._views.values())

    def _swap_adapter(self, version: int) -> int:
        assert self._adapter_dir is not None
        folder = self._adapter_dir / f"v{version}-{time.monotonic_ns()}"  # a new path: vLLM caches by path
        self.policy.model.save_pretrained(folder)  # type: ignore[operator]  # a PeftModel
        with self.engine.paused():
            try:
                self.engine.add_adapter(folder)
            except EngineError as error:
                raise BindingError(str(error)) from error
            self.engine.weights_changed(version)
        for old in self._adapter_dir.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _disturbed(values: Tensor, strength: float, number: int) -> Tensor:
    """`values` plus noise of `strength` times their own spread (a fresh adapter's zeros count as 0.02).

    `number` makes the noise a parameter's own: two alike that were taken for each other would not show.
    """
    # One short block, repeated: fresh noise for every weight would take seconds for nothing.
    block = torch.randn(65_537, generator=torch.Generator().manual_seed(number))
    noise = block.repeat(-(-values.numel() // len(block)))[: values.numel()].view(values.shape)
    spread = values.float().std(correction=0).clamp(min=0.02)
    return values.float() + strength * spread * noise


def bind(
    engine: VLLMEngine,
    policy: PolicyLike,
    *,
    publish: str,
    tolerance: float,
    probe_ids: Sequence[Sequence[int]],
    note: Callable[[str], None] = log.info,
) -> Weights:
    """Finds the first way of publishing that proves itself, and says which.

    Args:
        publish: "auto" or one of `MODES`, which is then the only one tried.

    Raises:
        EngineError: no way holds; names the reason of each.
    """
    weights = Weights(engine, policy, tolerance=tolerance, probe_ids=probe_ids)
    wanted = [publish] if publish != "auto" else (["adapter"] if policy.adapter else ["shared", "copy"])
    for mode in wanted:
        try:
            parity = weights.try_mode(mode)
        except BindingError as error:
            weights.refused[mode] = str(error)
            log.info("weights cannot be published by %s: %s", mode, error)
            continue
        why = "".join(f"; not {refused}: {reason}" for refused, reason in weights.refused.items())
        agree = f"engine and trainer agree to {parity.mean:.1e} nats on average, {parity.max:.1e} at most"
        note(f"weights: {mode} ({agree}{why})")
        return weights
    reasons = "; ".join(f"{mode}: {reason}" for mode, reason in weights.refused.items())
    raise EngineError(f"no way of publishing weights to the engine holds ({reasons})")
