"""RL²: a recurrent policy whose memory is the learner (Duan et al., 2016; Wang et al., 2016).

A recurrent network sees observation, reward, episode start and previous action of every step of a trial; its
hidden state lives through the trial's episodes and nothing resets it but the next trial. Proximal policy
optimisation makes it good at whole trials, and so at finding out what the task is.

The algorithm is sb3-contrib's ``RecurrentPPO``. Ours are the features, a lower bound of the actions'
deviation, and a buffer of whole trials. The buffer knows where episodes end inside a trial: there the
environment ignores the action, which must then earn neither praise nor blame, and there credit may be asked
to stop. It also hands sequences to the network in one piece; the original cuts them anywhere, so that the
network must look for starts step by step (the gradient of 15 trials of 41 steps took six times as long so).
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer
from sb3_contrib.common.recurrent.type_aliases import RecurrentDictRolloutBufferSamples, RNNStates
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from meld_agents.nets.images import ImageEncoder
from meld_agents.rl2_settings import Credit, RL2Settings, rl2_settings
from meld_agents.sb3 import Randomness, StableBaselines, StableBaselinesPolicy, TrialVecEnv
from meld_agents.settings import to_mapping

Samples = Generator[RecurrentDictRolloutBufferSamples, None, None]

MAX_NORMALISED_REWARD = 10.0  # normalised rewards are kept within +- this (VariBAD's code)


class TrialFeatures(BaseFeaturesExtractor):
    """All that a step shows as one vector: image features or the state as it is, and the rest beside it."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        filters: tuple[int, ...],
        feature_size: int,
        nonlinearity: str,
        reward_input_scale: float,
    ) -> None:
        seen, done = observation_space.spaces, observation_space["previous_action"]
        pixels = seen.get("pixels")  # channels first: stable-baselines3 transposes them
        size = feature_size if pixels is not None else math.prod(observation_space["state"].shape or ())
        super().__init__(observation_space, size + 2 + math.prod(done.shape or ()))
        self._scale, self.encoder = reward_input_scale, None
        if pixels is not None:
            assert pixels.shape is not None
            channels, height, width = pixels.shape
            self.encoder = ImageEncoder((height, width, channels), filters, size, nonlinearity, False)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features ``(n, features_dim)``; images come in [0, 1]."""
        seen = observations["state"] if self.encoder is None else self.encoder(observations["pixels"])
        reward = self._scale * observations["reward"]
        return torch.cat((seen, reward, observations["episode_start"], observations["previous_action"]), 1)


def advantages_of(
    rewards: np.ndarray,
    values: np.ndarray,
    boundary: np.ndarray,
    discount: float,
    gae_lambda: float,
    credit: Credit,
) -> np.ndarray:
    """Generalised advantage estimates of whole trials.

    A boundary step decides nothing, as the environment ignores its action and gives no reward. It is passed
    over: time goes by in it, and the step before leads to the next episode's start.

    Args:
        rewards: ``(S, n)``, of the trials' steps; the last has the discounted value of what comes after it.
        values: ``(S, n)``, of the observations in which the steps were taken.
        boundary: ``(S,)`` bool, the steps from an episode's last observation to the next one's first.
        discount: of rewards, per step.
        gae_lambda: 0 for one-step advantages, 1 for sums of discounted rewards less the value.
        credit: with ``episode`` an episode ends by a time limit: the value of its last observation stands for
            all that comes after it.

    Returns:
        ``(S, n)``, 0 at boundary steps.
    """
    advantages = np.zeros_like(values)
    following = np.zeros_like(values[0])  # advantage of the next step
    next_values = np.zeros_like(values[0])
    for step in reversed(range(len(rewards))):
        if boundary[step]:
            within = credit == "episode"
            following = np.zeros_like(following) if within else discount * following
            next_values = values[step] if within else discount * next_values
            continue
        error = rewards[step] + discount * next_values - values[step]
        advantages[step] = following = error + discount * gae_lambda * following
        next_values = values[step]
    return advantages


class TrialBuffer(RecurrentDictRolloutBuffer):
    """One trial from each environment, as they were lived, for a policy with memory."""

    def __init__(
        self, *args: Any, credit: Credit, episode_frames: int, backprop_steps: int | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._credit = credit
        sequences = math.ceil(self.buffer_size / (backprop_steps or self.buffer_size))
        self._window = math.ceil(self.buffer_size / sequences)  # of even lengths, so that little is padded
        #: The steps from an episode's last frame to the next one's first.
        self.boundary = (np.arange(self.buffer_size) + 1) % episode_frames == 0

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Returns for the critic, and advantages for the actor, standardised over all steps that count."""
        assert dones.all() and not self.episode_starts[1:].any(), "a round is whole trials"
        raw = advantages_of(
            self.rewards, self.values, self.boundary, self.gamma, self.gae_lambda, self._credit
        )
        self.returns = raw + self.values
        acting = raw[~self.boundary]
        self.advantages = (raw - acting.mean()) / (acting.std() + 1e-8)

    def get(self, batch_size: int | None = None) -> Samples:  # type: ignore[override]
        """Batches of whole trials in random order; ``batch_size`` is in steps."""
        assert self.full
        trials = self.n_envs if batch_size is None else max(1, batch_size // self.buffer_size)
        for chosen in torch.randperm(self.n_envs).split(trials):
            yield self._sequences(chosen.numpy())

    def _sequences(self, chosen: np.ndarray) -> RecurrentDictRolloutBufferSamples:
        """Some trials, cut into sequences that begin with the memory that was lived there."""
        mask = np.ones((self.buffer_size, self.n_envs), np.float32)
        mask[self.boundary] = 0.0  # actor and critic have nothing to learn where nothing is decided

        def cut(array: np.ndarray) -> Tensor:
            return self.to_torch(in_windows(array[:, chosen], self._window))

        def memory(array: np.ndarray) -> Tensor:  # (S, layers, n, H) to (layers, sequences, H)
            first = array[:: self._window][:, :, chosen]
            first[0] = 0.0  # a trial begins with none; what lies there is the last trial's
            return self.to_torch(first.transpose(1, 2, 0, 3).reshape(first.shape[1], -1, first.shape[3]))

        return RecurrentDictRolloutBufferSamples(
            observations={key: cut(array) for key, array in self.observations.items()},
            actions=cut(self.actions),
            old_values=cut(self.values),
            old_log_prob=cut(self.log_probs),
            advantages=cut(self.advantages),
            returns=cut(self.returns),
            lstm_states=RNNStates(
                (memory(self.hidden_states_pi), memory(self.cell_states_pi)),
                (memory(self.hidden_states_vf), memory(self.cell_states_vf)),
            ),
            episode_starts=cut(np.zeros_like(mask)),  # no sequence has one inside
            mask=cut(mask),
        )


def in_windows(array: np.ndarray, window: int) -> np.ndarray:
    """``(S, m, ...)`` as ``(m · sequences · window, ...)``: trial by trial, padded with zeros at its end."""
    rows = array.swapaxes(0, 1)
    missing = -rows.shape[1] % window
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)) + ((0, 0),) * (rows.ndim - 2))
    return rows.reshape(-1, *rows.shape[2:])


class TrialPPO(RecurrentPPO):
    """``RecurrentPPO`` that learns from whole trials."""

    def __init__(
        self,
        *args: Any,
        credit: Credit = "trial",
        episode_frames: int = 1,
        backprop_steps: int | None = None,
        least_std: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        self.credit, self.episode_frames, self.backprop_steps = credit, episode_frames, backprop_steps
        self.least_std = least_std
        kwargs["normalize_advantage"] = False  # the buffer does it
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        theirs = self.rollout_buffer
        assert isinstance(theirs, RecurrentDictRolloutBuffer)
        self.rollout_buffer = TrialBuffer(
            theirs.buffer_size,
            theirs.observation_space,
            theirs.action_space,
            theirs.hidden_state_shape,
            self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
            credit=self.credit,
            episode_frames=self.episode_frames,
            backprop_steps=self.backprop_steps,
        )

    def train(self) -> None:
        """A round's updates, after which actions are no surer than is asked for."""
        super().train()
        with torch.no_grad():
            self.policy.log_std.clamp_(min=math.log(self.least_std))


class RL2(StableBaselines):
    """The agent; see ``interface.Agent`` for what its methods promise."""

    name = "rl2"
    algorithm = TrialPPO

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, defaults of the named ``base`` (``paper``, ``small``) included.

        Raises:
            ValueError: an unknown key or base (with the nearest match), or a bad value.
        """
        return to_mapping(rl2_settings(cls.name, settings))

    def _wrap(self, env: TrialVecEnv) -> VecEnv:
        """Rewards are scaled on their way to the algorithm, if asked; not those that are evidence."""
        self._scale: VecNormalize | None = None
        if not self.settings["normalise_rewards"]:
            return env
        discount = self.settings["discount"]
        self._scale = VecNormalize(env, norm_obs=False, clip_reward=MAX_NORMALISED_REWARD, gamma=discount)
        return self._scale

    def _build(self, seed: int) -> TrialPPO:
        """The algorithm, on our environment.

        Raises:
            ValueError: images of a size that the encoder cannot halve, or for which it has too few filters.
        """
        s = rl2_settings(self.name, self.settings)
        return TrialPPO(
            "MultiInputLstmPolicy",
            self._wrapped,
            credit=s.credit,
            episode_frames=self.trial_env.episode_steps + 1,
            backprop_steps=s.backprop_steps,
            least_std=s.least_std,
            n_steps=self._trial_steps,
            batch_size=self._trial_steps * (s.trials_per_update or s.trials),
            n_epochs=s.epochs,
            learning_rate=s.learning_rate,
            gamma=s.discount,
            gae_lambda=s.gae_lambda,
            clip_range=s.clip,
            ent_coef=s.entropy_weight,
            vf_coef=s.value_weight,
            max_grad_norm=s.gradient_clip,
            target_kl=s.target_kl,
            policy_kwargs=_networks(s),
            seed=seed,
            device=self._device,
        )

    def _updates(self) -> int:
        """Gradient steps, as Adam counts them; the algorithm itself counts epochs."""
        return max((int(state["step"]) for state in self.model.policy.optimizer.state.values()), default=0)

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> RL2Policy:
        """The acting side with the present weights; ``explore=False`` takes the mean action."""
        return RL2Policy(self.model, num_trials, explore, Randomness(seed))

    def save(self, directory: Path) -> None:
        """The algorithm's own file, the generators, and the scale of rewards."""
        super().save(directory)
        state: dict[str, Any] = {"settings": self.settings}
        if self._scale is not None:
            seen = self._scale.ret_rms
            state["returns"] = {"mean": float(seen.mean), "var": float(seen.var), "count": float(seen.count)}
        (directory / "rl2.json").write_text(json.dumps(state), encoding="utf-8")  # keeps all digits of floats

    def load(self, directory: Path) -> None:
        """Restores what ``save`` wrote; it must be this agent's own: parts of it are pickled.

        Raises:
            ValueError: it was written with other settings.
        """
        state = json.loads((directory / "rl2.json").read_text(encoding="utf-8"))
        for key, value in self.settings.items():
            if state["settings"].get(key) != value:
                raise ValueError(
                    f"{directory} was written with other settings: {key} was {state['settings'].get(key)!r} "
                    f"there, is {value!r} here"
                )
        super().load(directory)
        if self._scale is not None:
            seen, returns = self._scale.ret_rms, state["returns"]
            seen.mean, seen.var = np.asarray(returns["mean"]), np.asarray(returns["var"])
            seen.count = returns["count"]


def _networks(s: RL2Settings) -> dict[str, Any]:
    """The networks' settings in stable-baselines3's words."""
    return {
        "features_extractor_class": TrialFeatures,
        "features_extractor_kwargs": {
            "filters": s.filters,
            "feature_size": s.feature_size,
            "nonlinearity": s.nonlinearity,
            "reward_input_scale": s.reward_input_scale,
        },
        "lstm_hidden_size": s.lstm_size,
        "net_arch": {"pi": list(s.heads), "vf": list(s.heads)},
        "log_std_init": math.log(s.initial_std),
    }


class RL2Policy(StableBaselinesPolicy):
    """Acts with the recurrent policy, n trials at once."""

    def belief(self) -> np.ndarray:
        """The actor's hidden state after the last evidence, ``(n, lstm_size)`` float32."""
        return np.asarray(self._state[0][-1], np.float32)
