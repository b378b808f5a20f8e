"""TRL's and transformers' side of the transformer's cases, run by an interpreter that has them.

    PYTHON benchmarks/peers/trl_cases.py CASE '{"width": 64, ...}'

Needs nothing of this repository but `turns.py` and `measure.py`: the checkout stays off the path, since Hugging Face
has a package of the name `kernels`, too. The model is GPT-2 with the policy's layers, width, heads, positions and
vocabulary. Whatever a trainer does besides training is off: dropout, logging, saving, evaluation, checkpointing of
gradients, half precision; the reference's log-probabilities of pairs are computed before. A step is what passes between
two of the trainer's own `on_step_end`, so that its data loader counts and nothing is called that `train()` would not.
"""

from __future__ import annotations

import atexit
import json
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

FOLDER = Path(__file__).resolve().parents[1]
package = types.ModuleType("benchmarks")
package.__path__ = [str(FOLDER)]
sys.modules["benchmarks"] = package

from benchmarks.measure import one_core, peak_reset, peak_since  # noqa: E402
from benchmarks.turns import answer, requests, serve  # noqa: E402

PAIRS = 1024
GROUP = 8
"""Replies to a prompt in GRPO."""
LEARNING_RATE = 1e-4
Size = types.SimpleNamespace
Words = list[list[int]]


class Turns(transformers.TrainerCallback):
    """Lets `train()` run from one request to the next; `steps` of the trainer are one answer."""

    def __init__(self, steps: int = 1) -> None:
        self.steps, self.done = steps, -2 * steps  # the first two set things up
        self.asked = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done += 1
        if self.done < 0 or self.done % self.steps:
            return
        if self.asked is None:
            self.asked = requests(about())
        elif self.what == "peak":
            extra = peak_since(self.before)
            answer(peak=None if extra is None else [extra, 0])
        else:
            answer(seconds=perf_counter() - self.start)
        self.what = next(self.asked, None)
        if self.what is None:
            sys.exit()
        if self.what == "peak":
            self.before = peak_reset()
        self.start = perf_counter()


def about() -> str:
    return ", ".join(f"{library} {version(library)}" for library in ("trl", "transformers", "torch"))


def tokenizer(size: Size) -> transformers.PreTrainedTokenizerFast:
    """Words w0, w1, ...; one of them ends a reply, one is padding."""
    words = {f"w{i}": i for i in range(size.vocab) if i != size.pad} | {"<pad>": size.pad}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token=f"w{size.eos}", padding_side="left"
    )


def config(size: Size, **more: Any) -> transformers.GPT2Config:
    return transformers.GPT2Config(
        vocab_size=size.vocab,
        n_positions=size.prompt + size.length,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=size.pad,
        eos_token_id=size.eos,
        bos_token_id=size.eos,
        **more,
    )


def language_model(size: Size) -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config(size))


def scorer(size: Size) -> transformers.GPT2ForSequenceClassification:
    """Reward model, and value model where a trainer wants one of its own."""
    return transformers.GPT2ForSequenceClassification(config(size, num_labels=1))


def draw(size: Size, rows: int, length: int) -> Words:
    """Never the word that ends a reply."""
    return torch.randint(size.vocab - 1, (rows, length), generator=torch.manual_seed(1)).tolist()


def text(rows: Words, end: str = "") -> list[str]:
    return ["".join(f"w{word} " for word in row) + end for row in rows]


def common(size: Size) -> dict[str, Any]:
    """Arguments of every trainer."""
    folder = tempfile.mkdtemp(prefix="trl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
        "output_dir": folder,
        "per_device_train_batch_size": size.rows,
        "learning_rate": LEARNING_RATE,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "optim": "adamw_torch_fused",
        "dataloader_pin_memory": False,
    }


def train(trainer: Any) -> None:
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def pairs(size: Size) -> dict[str, list[str]]:
    end = f"w{size.eos}"
    return {
        "prompt": text(draw(size, PAIRS, size.prompt)),
        "chosen": text(draw(size, PAIRS, size.length - 1), end),
        "rejected": text(draw(size, PAIRS, size.length - 1)[::-1], end),
    }


def dpo(size: Size) -> None:
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(**common(size), max_steps=10**6, precompute_ref_log_probs=True, max_length=None)
    data, words = Dataset.from_dict(pairs(size)), tokenizer(size)
    model = language_model(size)
    train(DPOTrainer(model, args=arguments, train_dataset=data, processing_class=words, callbacks=[Turns()]))


def grpo(size: Size) -> None:
    """A rollout and its epochs; no values, and the reward is a function that costs nothing."""
    from trl import GRPOConfig, GRPOTrainer

    model, words = language_model(size), tokenizer(size)
    words.pad_token = "w0"  # follows replies that ended, behind a mask
    model.config._name_or_path = tempfile.mkdtemp(prefix="trl-")  # where the reference is loaded from
    model.save_pretrained(model.config._name_or_path)
    arguments = GRPOConfig(
        **common(size),
        max_steps=10**6,
        num_generations=GROUP,
        max_completion_length=size.length,
        num_iterations=size.epochs,
        beta=0.05,
    )
    train(
        GRPOTrainer(
            model,
            reward_funcs=lambda completions, **_: [float(len(c) % 7) for c in completions],
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": text(draw(size, PAIRS, size.prompt))}),
            processing_class=words,
            callbacks=[Turns(size.epochs)],
        )
    )


def ppo(size: Size) -> None:
    """TRL's PPO trains a value model of its own beside the policy."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    arguments = PPOConfig(
        **common(size),
        total_episodes=10**7,
        num_ppo_epochs=size.epochs,
        num_mini_batches=size.minibatches,
        local_rollout_forward_batch_size=size.rows,
        response_length=size.length,
        temperature=1.0,
        num_sample_generations=0,
    )
    words = tokenizer(size)
    prompts = Dataset.from_dict({"input_ids": draw(size, PAIRS, size.prompt)})
    train(
        PPOTrainer(
            arguments,
            words,
            language_model(size),
            language_model(size),
            scorer(size),
            prompts,
            scorer(size),
            callbacks=[Turns()],
        )
    )


def generate(size: Size) -> None:
    """Draws replies to the same prompts, none of which ends early."""
    model, prompts = language_model(size).eval(), torch.tensor(draw(size, size.rows, size.prompt))
    model.generation_config.eos_token_id = None
    seen = torch.ones_like(prompts)
    how = transformers.GenerationConfig(
        max_new_tokens=size.length, do_sample=True, top_k=0, top_p=1.0, pad_token_id=size.pad
    )

    def sample() -> Any:
        with torch.inference_mode():
            return model.generate(prompts, attention_mask=seen, generation_config=how)

    for _ in range(2):
        assert sample().shape == (size.rows, size.prompt + size.length)
    serve(sample, about())


CASES: dict[str, Callable[[Size], None]] = {case.__name__: case for case in (dpo, grpo, ppo, generate)}

if __name__ == "__main__":
    one_core()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    given = json.loads(sys.argv[2])
    # Padding is never needed and lies outside the model's vocabulary.
    CASES[sys.argv[1]](Size(**given, eos=given["vocab"] - 1, pad=given["vocab"]))
