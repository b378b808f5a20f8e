"""Seeds of `compare ppo dpo` as TRL does them, from fine-tuning to the last point of the curves.

    PYTHON benchmarks/peers/trl_job.py CORE JOB.json

answers each line of its standard input with a seed done: its curves, and the seconds of each part. Trainers are set
up, and learn from the same demonstrations and pairs as ours, in as many updates of as many rows; curves have as many
points of as many replies. Models, and what is off, are those of `trl_cases`; TRL has to be one that has PPO.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

FOLDER = Path(__file__).resolve().parents[1]
package = types.ModuleType("benchmarks")
package.__path__ = [str(FOLDER)]
sys.modules["benchmarks"] = package

from benchmarks.measure import one_core  # noqa: E402
from benchmarks.peers.trl_cases import (  # noqa: E402
    Size,
    Words,
    about,
    common,
    language_model,
    scorer,
    text,
    tokenizer,
    train,
)
from benchmarks.turns import answer, requests  # noqa: E402

PAIR = "prompt", "chosen", "rejected"
Job = Part = types.SimpleNamespace


class Clock:
    """Seconds of each part, less those of the parts within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.within = [0.0]

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self.within.append(0.0)
        start = perf_counter()
        yield
        taken = perf_counter() - start
        self.seconds[part] = self.seconds.get(part, 0.0) + taken - self.within.pop()
        self.within[-1] += taken


class Curve(transformers.TrainerCallback):
    """Evaluates a policy before its first update, and then at even distances up to the last."""

    def __init__(self, evaluate: Callable[[], None], updates: int, points: int) -> None:
        self.evaluate, self.done = evaluate, 0
        self.at = {round(updates * point / (points - 1)) for point in range(1, points)}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.evaluate()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done += 1
        if self.done in self.at:
            self.evaluate()


class Seed:
    """One seed of the job, done: `clock` has the seconds of its parts, `curves` the points of each arm."""

    def __init__(self, job: Job) -> None:
        self.job, self.size, self.words = job, job.size, tokenizer(job.size)
        self.clock = Clock()
        self.curves: dict[str, list[list[float]]] = {"DPO": [], "PPO": []}
        with self.clock("SFT"):
            self.tuned_weights = self.fine_tune()
        self.reference = self.policy()
        with self.clock("reward model"):
            self.reward_weights = self.learn_rewards()
        self.rewards = self.scores()
        for arm, train_arm in (("DPO", self.dpo), ("PPO", self.ppo)):
            with self.clock(arm):
                train_arm(vars(job.parts)[arm], self.policy())

    def policy(self) -> Any:
        """One as fine-tuning left it. A model that a trainer had cannot be copied: `forward` stays bound to it."""
        model = language_model(self.size)
        model.load_state_dict(self.tuned_weights)
        return model

    def scores(self) -> Any:
        """A reward model, or a value model that begins as one."""
        model = scorer(self.size)
        model.load_state_dict(self.reward_weights)
        return model

    def arguments(self, part: Part) -> dict[str, Any]:
        """What every trainer is told."""
        size = Size(**vars(self.size) | {"rows": part.rows})
        return common(size) | {"learning_rate": part.learning_rate}

    def batches(self, rows: list[list[Words]], *names: str) -> dict[str, Any]:
        """Of a trainer whose `train()` is a loop over batches of a file: the file, and what to say its words in."""
        columns = {name: text([row[i] for row in rows]) for i, name in enumerate(names)}
        return {"train_dataset": Dataset.from_dict(columns), "processing_class": self.words}

    def curve(self, arm: str, policy: Any) -> Curve:
        def evaluate() -> None:
            with self.clock("evaluation"):
                self.curves[arm].append(self.point(policy))

        return Curve(evaluate, vars(self.job.parts)[arm].updates, self.job.points)

    def fine_tune(self) -> Any:
        part, model = self.job.parts.SFT, language_model(self.size)
        arguments = SFTConfig(**self.arguments(part), max_steps=part.updates)
        batches = self.batches(self.job.demonstrations, "prompt", "completion")
        train(SFTTrainer(model, args=arguments, **batches))
        return model.state_dict()

    def learn_rewards(self) -> Any:
        """Of a model that begins as the fine-tuned one."""
        part, model = vars(self.job.parts)["reward model"], scorer(self.size)
        model.transformer.load_state_dict(self.reference.transformer.state_dict())
        arguments = RewardConfig(**self.arguments(part), max_steps=part.updates)
        train(RewardTrainer(model, args=arguments, **self.batches(self.job.pairs, *PAIR)))
        return model.state_dict()

    def dpo(self, part: Part, policy: Any) -> None:
        arguments = DPOConfig(
            **self.arguments(part),
            max_steps=part.updates,
            beta=part.beta,
            precompute_ref_log_probs=True,
            max_length=None,
        )
        batches = self.batches(self.job.pairs, *PAIR)
        train(DPOTrainer(policy, args=arguments, callbacks=[self.curve("DPO", policy)], **batches))

    def ppo(self, part: Part, policy: Any) -> None:
        """Trains a value model of its own beside the policy, which begins as the reward model."""
        arguments = PPOConfig(
            **self.arguments(part),
            total_episodes=part.updates * part.rows,
            num_ppo_epochs=part.epochs,
            num_mini_batches=part.minibatches,
            local_rollout_forward_batch_size=part.rows,
            response_length=self.job.length,
            kl_coef=part.beta,
            stop_token="eos",
            temperature=1.0,
            num_sample_generations=0,
        )
        prompts = Dataset.from_dict({"input_ids": [pair[0] for pair in self.job.pairs]})
        models = policy, self.policy(), self.rewards, prompts, self.scores()
        train(PPOTrainer(arguments, self.words, *models, callbacks=[self.curve("PPO", policy)]))

    @torch.inference_mode()
    def point(self, policy: Any) -> list[float]:
        """Of replies: their reward, and KL to the reference and entropy over the vocabulary, summed over the words."""
        training, prompts = policy.training, torch.tensor(self.job.prompts)
        models = policy, self.reference, self.rewards
        for model in models:
            model.eval()
        how = transformers.GenerationConfig(
            max_new_tokens=self.job.length,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            pad_token_id=self.size.pad,
            eos_token_id=self.size.eos,
        )
        replies = policy.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=how)
        seen = replies != self.size.pad
        scores = self.rewards(replies, attention_mask=seen).logits
        first = prompts.shape[1]
        logp, ref_logp = (model(replies).logits[:, first - 1 : -1].log_softmax(-1) for model in models[:2])
        p, mask = logp.exp(), seen[:, first:]
        kl, entropy = (p * (logp - ref_logp)).sum(-1) * mask, -(p * logp).sum(-1) * mask
        policy.train(training)
        return [scores.mean().item(), kl.sum(-1).mean().item(), entropy.sum(-1).mean().item()]


def main(core: str, file: str) -> None:
    one_core(int(core))
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    told = json.loads(Path(file).read_text(encoding="utf-8"))
    parts = Job(**{name: Part(**part) for name, part in told["parts"].items()})
    job = Job(**told | {"size": Size(**told["size"]), "parts": parts})
    for _ in requests(about()):
        seed = Seed(job)
        answer(found={"seconds": seed.clock.seconds, "curves": seed.curves})


if __name__ == "__main__":
    main(*sys.argv[1:])
