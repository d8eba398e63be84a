"""Steps of TRL's GRPOTrainer on the CPU: as many as a request says, one after the other (`worker.py`).

usage: peer_trl.py default            a tiny Qwen3-MoE learns to reverse digits, with the SAPO loss, in f32
       peer_trl.py smollm2 DIRECTORY  32 samples of 64 new tokens, with the DAPO loss, in bf16
"""
import random
import sys
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from worker import Requests

torch.set_num_threads(2)
torch.manual_seed(0)
random.seed(0)
requests = Requests()


def default():
    vocabulary = {c: i for i, c in enumerate(["<pad>", "<eos>"] + list("0123456789") + ["="])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    tokenizer.padding_side = "left"
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=16, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=64, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=64, norm_topk_prob=True, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
    ))
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    rows = ["".join(random.choice("0123456789") for _ in range(4)) for _ in range(4096)]
    data = Dataset.from_dict({"prompt": [r + "=" for r in rows], "gold": [r[::-1] for r in rows]})

    def reward(completions, gold, **_):
        clean = [c.replace("<eos>", "").replace(" ", "") for c in completions]
        return [sum(a == b for a, b in zip(c, g)) / 4 for c, g in zip(clean, gold)]

    settings = dict(
        per_device_train_batch_size=256, max_completion_length=5, learning_rate=1e-3, loss_type="sapo", bf16=False
    )
    return model, tokenizer, reward, data, settings


def smollm2(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with open(f"{directory}/prompts.txt") as prompts:
        data = Dataset.from_dict({"prompt": prompts.read().splitlines()})

    def reward(completions, **_):
        return [float("and" in c) for c in completions]

    settings = dict(
        per_device_train_batch_size=32, max_completion_length=64, learning_rate=1e-6, loss_type="dapo", bf16=True,
        gradient_checkpointing=False,
    )
    return model, tokenizer, reward, data, settings


class Turns(TrainerCallback):
    """The median of as many steps as a request says, after two that are not counted."""

    def __init__(self):
        self.warm_up, self.wanted, self.seconds = 2, 0, []

    def on_step_begin(self, *_, **__):
        if self.warm_up == 0 and self.wanted == 0:
            request = requests.next()
            if request is None:
                sys.exit()
            [self.wanted], self.seconds = request, []
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        if self.warm_up > 0:
            self.warm_up -= 1
            if self.warm_up == 0:
                requests.ready()
            return
        self.seconds.append(time.perf_counter() - self.start)
        if len(self.seconds) == self.wanted:
            requests.answer(sorted(self.seconds)[self.wanted // 2])
            self.wanted = 0


model, tokenizer, reward, data, settings = {"default": default, "smollm2": smollm2}[sys.argv[1]](*sys.argv[2:])
arguments = GRPOConfig(
    output_dir=tempfile.mkdtemp(), num_generations=8, max_steps=10_000, use_cpu=True, logging_steps=100_000,
    report_to=[], save_strategy="no", temperature=1.0, top_k=0, beta=0.0, lr_scheduler_type="constant",
    dataloader_num_workers=0, disable_tqdm=True, **settings,
)
GRPOTrainer(
    model=model, processing_class=tokenizer, reward_funcs=reward, args=arguments, train_dataset=data, callbacks=[Turns()]
).train()
