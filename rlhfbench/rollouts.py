"""What online methods share: scored replies of the policy, and the way back from token gradients to parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kernels import categorical

from .kl_penalty import KL, estimates, in_loss, slopes
from .metrics import mean, sequence_difference, sequence_mean
from .room import Room
from .types import DenseReward, Float, Int, Metrics, Rollout, Setup, StepRewards


@dataclass(frozen=True)
class Episodes:
    """Replies of the policy with their scores; arrays (B, T), `prompts` (B, P), `scores` (B,).

    Without a reference, `ref_logprobs` are empty (0, T). `steps` is what each step earned, where the reward model says.
    """

    prompts: Int
    responses: Int
    mask: Float
    logprobs: Float
    ref_logprobs: Float
    scores: Float
    steps: StepRewards | None = None

    @property
    def replies(self) -> tuple[Int, Int, Float]:
        """What policies take."""
        return self.prompts, self.responses, self.mask

    @property
    def whole(self) -> Float:
        """(B,) ones, the mask of the replies themselves: each has a first token."""
        return self.mask[:, 0]

    def take(self, index: Int, room: Room) -> Episodes:
        """Those at `index`, in `room` until others are taken."""
        prompts, responses, mask, logprobs = room.take(
            index, prompts=self.prompts, responses=self.responses, mask=self.mask, logprobs=self.logprobs
        )
        reference = self.ref_logprobs
        if len(reference):
            (reference,) = room.take(index, reference=reference)
        steps = None if self.steps is None else self.steps.take(index)
        return Episodes(prompts, responses, mask, logprobs, reference, self.scores[index], steps)

    def without_reference(self) -> Episodes:
        """The same, where what it said will not be read again."""
        return replace(self, ref_logprobs=self.ref_logprobs[:0].copy())  # a view would hold all of it

    def clipped(self, most: float) -> Episodes:
        """With no score, and no reward of a step, beyond `most` on either side."""
        steps = (
            None
            if self.steps is None
            else self.steps._replace(tokens=np.clip(self.steps.tokens, -most, most))
        )
        return replace(self, scores=np.clip(self.scores, -most, most), steps=steps)


def collect(setup: Setup, prompts: Int, reference: bool = True, *, lasting: bool = True) -> Episodes:
    """Draw a reply to each of `prompts` (B, P) and score it; `reference` asks what that would have said of it.

    Where the episodes need not be `lasting`, they lie in the run's room until the next ones.
    """
    room, shape = setup.room, (len(prompts), setup.policy.max_length)
    out, dtype = None, setup.policy.params.dtype
    if not lasting:
        arrays = (room(f"rollout {name}", shape, dtype) for name in ("mask", "logprobs"))
        out = Rollout(room("rollout responses", shape, np.int64), *arrays)
    uniforms = setup.rng.random(out=room("rollout uniforms", shape, np.float64))
    rollout = setup.policy.sample(prompts, uniforms, out=out)
    replies = prompts, rollout.responses, rollout.mask
    steps, model = None, setup.reward_model
    if isinstance(model, DenseReward):
        steps = model.rewards(*replies)
        scores = steps.tokens.sum(axis=1)
        setup.charge("sum", *steps.tokens.shape)
    else:
        scores = model.score(*replies)
    ref_logprobs = rollout.logprobs[:0]
    if reference:
        out_of_reference = None if lasting else room("rollout reference", shape, dtype)
        ref_logprobs = setup.reference.logprobs(*replies, out=out_of_reference)
    return Episodes(*replies, rollout.logprobs, ref_logprobs, scores, steps)


def pay(setup: Setup, rewards: Float, episodes: Episodes) -> None:
    """Add to the rewards (B, T) of tokens, in place, what each step earned, or the score to a reply's last token."""
    if episodes.steps is not None:
        rewards += episodes.steps.tokens
        setup.charge("elementwise", rewards.size)
        return
    last = episodes.mask.shape[1] - 1 - (episodes.mask > 0)[:, ::-1].argmax(axis=1)
    rewards[np.arange(len(last)), last] += episodes.scores
    setup.charge("elementwise", len(last))


def groups(setup: Setup, batch_size: int, num_generations: int) -> Int:
    """(batch_size, P) prompts, each `num_generations` times in a row."""
    return np.repeat(setup.prompts(batch_size // num_generations), num_generations, axis=0)


def penalised_scores(setup: Setup, episodes: Episodes, kl: KL, beta: float) -> Float:
    """(B,) scores, less beta times the estimated KL of the reply where it stands in the reward."""
    if beta == 0 or in_loss(kl):
        return episodes.scores
    tokens = estimates(setup, kl, episodes.replies, episodes.logprobs, episodes.ref_logprobs)
    setup.charge("sum", *tokens.shape)
    setup.charge("elementwise", 2 * len(tokens))
    return np.asarray(episodes.scores - beta * tokens.sum(axis=1))


def token_weights(setup: Setup, mask: Float, loss_type: str) -> Float:
    """(B, T) what each token counts in a mean as `policy_gradient.grpo` takes it: "grpo", "bnpo" or "dr_grpo"."""
    setup.charge("elementwise", mask.size)
    if loss_type == "dr_grpo":
        return np.asarray(mask / mask.size)
    if loss_type == "bnpo":
        setup.charge("sum", mask.size)
        return np.asarray(mask / mask.sum())
    setup.charge("sum", *mask.shape)
    setup.charge("elementwise", len(mask))
    return np.asarray(mask / (len(mask) * mask.sum(axis=1, keepdims=True)))


def imitate(setup: Setup, prompts: Int, responses: Int, mask: Float) -> None:
    """Accumulate the gradient of the replies' negative log-likelihood, a mean over tokens."""
    logits = setup.policy.logits(prompts, responses, mask)
    d_logprobs = -token_weights(setup, mask, "bnpo")
    d_logits = categorical.token_logprobs_backward(logits, responses, d_logprobs, out=logits)
    setup.charge("elementwise", mask.size)
    setup.charge("token_logprobs_backward", *logits.shape)
    setup.policy.backward(d_logits)


def logit_gradient(
    setup: Setup,
    episodes: Episodes,
    logits: Float,
    logprobs: Float,
    d_logprobs: Float,
    kl: KL,
    kl_weights: Float | None = None,
) -> Float:
    """(B, T, V) gradient of a loss with slopes `d_logprobs` (B, T) by the logits, which it is written over.

    `kl_weights` (B, T) is what the KL of each token weighs in the loss, beta included; None where it is no part of it.
    """
    d_states = None
    if kl_weights is not None and kl == "full:loss":
        ref_logits = setup.reference.logits(*episodes.replies)
        d_states = categorical.kl_divergence_backward(logits, ref_logits, kl_weights)
        setup.charge("kl_divergence_backward", *logits.shape)
    elif kl_weights is not None:
        d_logprobs = d_logprobs + kl_weights * slopes(setup, kl, logprobs, episodes.ref_logprobs)
        setup.charge("elementwise", 2 * d_logprobs.size)
    d_logits = categorical.token_logprobs_backward(logits, episodes.responses, d_logprobs, out=logits)
    setup.charge("token_logprobs_backward", *logits.shape)
    if d_states is not None:
        d_logits += d_states
        setup.charge("elementwise", d_logits.size)
    return d_logits


def episode_metrics(episodes: Episodes, beta: float) -> Metrics:
    """What TRL's PPO shows of a rollout batch; the KL, k1's mean, only where the reference was asked."""
    entropy, score = -sequence_mean(episodes.logprobs), mean(episodes.scores)
    if not len(episodes.ref_logprobs):
        return {"objective/entropy": entropy, "objective/scores": score, "objective/kl_coef": beta}
    kl = sequence_difference(episodes.logprobs, episodes.ref_logprobs)
    return {
        "objective/kl": kl,
        "objective/entropy": entropy,
        "objective/scores": score,
        "objective/rlhf_reward": score - beta * kl,
        "objective/kl_coef": beta,
    }
