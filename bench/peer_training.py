"""Forward, backward and AdamW of a shape in PyTorch on the CPU: a step for every request (`worker.py`).

usage: peer_training.py CONFIG.json f32|bf16 BATCH LENGTH [--compile] [--experts NAME]
"""
import argparse
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from worker import serve

parser = argparse.ArgumentParser()
parser.add_argument("config")
parser.add_argument("dtype", choices=["f32", "bf16"])
parser.add_argument("batch", type=int)
parser.add_argument("length", type=int)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--experts", help="transformers' implementation of experts: eager, grouped_mm")
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
config = AutoConfig.from_pretrained(args.config)
options = {"experts_implementation": args.experts} if args.experts else {}
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32, **options)
model.config.use_cache = False
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
tokens = torch.randint(0, config.vocab_size, (args.batch, args.length + 1))
inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def loss_of():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        logits = model(input_ids=inputs).logits
    return torch.nn.functional.cross_entropy(logits.float().view(-1, config.vocab_size), targets.view(-1))


forward = torch.compile(loss_of) if args.compile else loss_of


def step():
    start = time.perf_counter()
    forward().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


for _ in range(2 if args.compile else 1):
    step()
serve(step)
