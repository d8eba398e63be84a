"""Loss and gradient of TRL on PyTorch on the CPU, from logits or from hidden states: one for every request (`worker.py`).

What `GRPOTrainer` does between the model and `backward`: TRL's own log-probabilities and entropies, then its `dapo` loss.

usage: peer_loss.py logits|hidden TOKENS VOCABULARY SIZE f32|bf16 [--compile]
"""
import argparse
import time

import torch
from trl.trainer.utils import selective_log_softmax_and_entropy

from worker import serve

parser = argparse.ArgumentParser()
parser.add_argument("start", choices=["logits", "hidden"])
parser.add_argument("tokens", type=int)
parser.add_argument("vocabulary", type=int)
parser.add_argument("size", type=int)
parser.add_argument("dtype", choices=["f32", "bf16"])
parser.add_argument("--compile", action="store_true")
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
sequences = 16
shape = (sequences, args.tokens // sequences)
targets = torch.randint(0, args.vocabulary, shape)
advantages = torch.randn(sequences, 1)
shift = 0.1 * torch.randn(shape)
if args.start == "logits":
    logits = torch.randn(*shape, args.vocabulary).requires_grad_()
    inputs = [logits]
else:
    hidden = torch.randn(*shape, args.size).requires_grad_()
    weight = (torch.randn(args.vocabulary, args.size) / args.size**0.5).requires_grad_()
    inputs = [hidden, weight]


def loss_of():
    scores = logits if args.start == "logits" else hidden
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        if args.start == "hidden":
            scores = torch.nn.functional.linear(scores, weight)
    logps, _entropies = selective_log_softmax_and_entropy(scores, targets, entropy_requires_grad=False)
    ratio = torch.exp(logps - (logps.detach() + shift))
    loss = -torch.min(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages)
    return loss.sum() / args.tokens


forward = torch.compile(loss_of) if args.compile else loss_of


def step():
    for tensor in inputs:
        tensor.grad = None
    start = time.perf_counter()
    forward().backward()
    return time.perf_counter() - start


for _ in range(2 if args.compile else 1):
    step()
serve(step)
