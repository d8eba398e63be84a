"""Loads a Qwen3-VL directory that we wrote in transformers, and compares its logits with a golden case's.

usage: check_vl_checkpoint.py GOLDEN_CASE CHECKPOINT
"""

import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

case, checkpoint = load_file(f"{sys.argv[1]}/expected.safetensors"), sys.argv[2]
model, report = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
for what, names in report.items():
    if names:
        sys.exit(f"{what}: {names}")
ids = case["input_ids"]
kinds = torch.where(ids == model.config.image_token_id, 1, torch.where(ids == model.config.video_token_id, 2, 0))
names = ["pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw"]
with torch.no_grad():
    logits = model.eval()(input_ids=ids, mm_token_type_ids=kinds.int(), **{n: case[n] for n in names if n in case}).logits
difference = (logits - case["logits"]).abs().max().item()
print(f"{type(model).__name__}: largest difference of a logit {difference:.2e}")
if difference > 1e-4:
    sys.exit("the logits differ by more than 1e-4")
