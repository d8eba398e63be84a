"""Greedy `generate` of a shape with random weights in transformers on the CPU: seconds a decoding step and peak memory.

usage: peer_decoding.py CONFIG.json f32|bf16 BATCH PROMPT STEPS
"""
import argparse
import json
import resource
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("config")
parser.add_argument("dtype", choices=["f32", "bf16"])
parser.add_argument("batch", type=int)
parser.add_argument("prompt", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
config = AutoConfig.from_pretrained(args.config)
dtype = torch.float32 if args.dtype == "f32" else torch.bfloat16
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
prompt = torch.randint(0, config.vocab_size, (args.batch, args.prompt))


def seconds_of(new_tokens):
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


seconds_of(4)
# The prompt's own pass is in both.
times = sorted(seconds_of(1 + args.steps) - seconds_of(1) for _ in range(3))
print(
    json.dumps(
        {
            "seconds": times[1] / args.steps,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
