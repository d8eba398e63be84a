"""Greedy `generate` of a model in transformers on the CPU: seconds a decoding step (`worker.py`); a request is a batch size.

usage: peer_decoding.py MODEL f32|bf16 PROMPT STEPS   (MODEL: a directory, or a config.json for random weights)
"""
import argparse
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from worker import serve

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("dtype", choices=["f32", "bf16"])
parser.add_argument("prompt", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
dtype = torch.float32 if args.dtype == "f32" else torch.bfloat16
config = AutoConfig.from_pretrained(args.model)
options = {"attn_implementation": "sdpa", "dtype": dtype}
if args.model.endswith(".json"):
    model = AutoModelForCausalLM.from_config(config, **options).eval()
else:
    model = AutoModelForCausalLM.from_pretrained(args.model, **options).eval()


def seconds_of(prompt, new_tokens):
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - start


def measure(batch):
    prompt = torch.randint(0, config.vocab_size, (batch, args.prompt))
    # The prompt's own pass is in both.
    return (seconds_of(prompt, 1 + args.steps) - seconds_of(prompt, 1)) / args.steps


measure(1)
serve(measure)
