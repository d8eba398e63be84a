"""Loads a checkpoint in transformers and compares its logits with ours.

usage: check_checkpoint.py CHECKPOINT LOGITS.json     (LOGITS.json: {"input_ids": [...], "logits": [[...]], "text": ..})
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

checkpoint, ours = sys.argv[1], json.load(open(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
ids = torch.tensor([ours["input_ids"]])
with torch.no_grad():
    theirs = model(ids).logits[0]
difference = (theirs - torch.tensor(ours["logits"])).abs().max().item()
print(f"{type(model).__name__}: largest difference of a logit {difference:.2e}")
if difference > 1e-4:
    sys.exit("the logits differ by more than 1e-4")

tokenizer = AutoTokenizer.from_pretrained(checkpoint)
if tokenizer(ours["text"], add_special_tokens=False)["input_ids"] != ours["input_ids"]:
    sys.exit(f"the tokenizer reads {ours['text']!r} otherwise")
print("tokenizer: same ids")
