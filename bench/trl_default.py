"""TRL's GRPOTrainer with the SAPO loss on a tiny Qwen3-MoE that learns to reverse digits, on the CPU.

Prints `trl SECONDS_A_STEP PEAK_MIB`; the first two steps are warm-up.
"""

import random
import resource
import sys
import tempfile
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 12
torch.set_num_threads(2)
torch.manual_seed(0)
random.seed(0)

vocabulary = {c: i for i, c in enumerate(["<pad>", "<eos>"] + list("0123456789") + ["="])}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
tokenizer.padding_side = "left"
config = Qwen3MoeConfig(
    vocab_size=16, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=64, num_experts=8, num_experts_per_tok=2,
    moe_intermediate_size=64, norm_topk_prob=True, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
)
model = Qwen3MoeForCausalLM(config)
model.generation_config.eos_token_id = 1
model.generation_config.pad_token_id = 0
rows = ["".join(random.choice("0123456789") for _ in range(4)) for _ in range(4096)]
data = Dataset.from_dict({"prompt": [r + "=" for r in rows], "gold": [r[::-1] for r in rows]})


def reward(completions, gold, **_):
    clean = [c.replace("<eos>", "").replace(" ", "") for c in completions]
    return [sum(a == b for a, b in zip(c, g)) / 4 for c, g in zip(clean, gold)]


class Clock(TrainerCallback):
    """Remembers when each step ended."""

    ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.time())


arguments = GRPOConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=256, num_generations=8, max_completion_length=5,
    max_steps=steps, learning_rate=1e-3, loss_type="sapo", use_cpu=True, logging_steps=1000, report_to=[],
    save_strategy="no", temperature=1.0, top_k=0, beta=0.0, lr_scheduler_type="constant", bf16=False,
    dataloader_num_workers=0, disable_tqdm=True,
)
clock = Clock()
trainer = GRPOTrainer(
    model=model, processing_class=tokenizer, reward_funcs=reward, args=arguments, train_dataset=data, callbacks=[clock]
)
sys.stdout, out = sys.stderr, sys.stdout
trainer.train()
times = sorted(b - a for a, b in zip(clock.ends[1:], clock.ends[2:]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"trl {times[len(times) // 2]:.4f} {peak:.0f}", file=out)
