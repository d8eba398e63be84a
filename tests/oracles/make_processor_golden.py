"""Writes tests/golden/processor.json: what Pillow and transformers make of small images and videos.

usage: make_processor_golden.py OUT.json     (needs transformers, torch, torchvision, pillow below 13)

Pillow 13 chooses by cost whether rows or columns are resampled first; before it, and in torchvision, which transformers
uses by default, columns are.
"""

import json
import sys

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from transformers import Qwen2VLImageProcessorPil, Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata


def frame(height, width, number):
    """[height, width, 3] bytes that change quickly; the test makes the same."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * y + 11 * x * x + 53 * c * x + 29 * c + 17 * number * (y + 1)) % 256).astype(np.uint8)


def as_bytes(pixels):
    """Normalised values as the bytes they come from."""
    values = np.asarray(pixels, dtype=np.float64) * 127.5 + 127.5
    rounded = values.round()
    assert np.abs(values - rounded).max() < 1e-3
    return rounded.astype(np.uint8).tobytes().hex()


assert int(PIL.__version__.split(".")[0]) < 13

sizes = [(6, 7, 4, 4), (6, 7, 8, 10), (37, 80, 16, 96), (5, 3, 40, 3), (64, 48, 64, 7), (33, 65, 32, 64), (1, 9, 5, 2)]
resize = []
for height, width, to_height, to_width in sizes:
    out = Image.fromarray(frame(height, width, 0)).resize((to_width, to_height), Image.BICUBIC)
    resize.append({"from": [height, width], "to": [to_height, to_width], "rgb": np.asarray(out).tobytes().hex()})

patching = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
size = {"shortest_edge": 256, "longest_edge": 1024}
images = []
processor = Qwen2VLImageProcessorPil(size=size, **patching, **normal)
for height, width in [(16, 16), (20, 28), (9, 50), (70, 40), (3, 4)]:
    out = processor(Image.fromarray(frame(height, width, 1)), return_tensors="np")
    images.append(
        {"size": [height, width], "grid": out["image_grid_thw"][0].tolist(), "pixels": as_bytes(out["pixel_values"])}
    )

videos = []
ids = {"<|vision_start|>": 61, "<|vision_end|>": 62, "<|image_pad|>": 59, "<|video_pad|>": 60}


def encode(text):
    """Markers as their ids, other characters as 1000 and their code."""
    out = []
    while text:
        marker = next((m for m in ids if text.startswith(m)), None)
        out.append(ids[marker] if marker else 1000 + ord(text[0]))
        text = text[len(marker) if marker else 1 :]
    return out


for total, fps, height, width, capped in [
    (9, 30.0, 16, 24, False),
    (40, 10.0, 8, 8, False),
    (7, 2.0, 16, 16, False),
    (30, 29.97, 4, 4, True),
    (40, 10.0, 40, 56, True),
    # Twice the frames, whose share of the bound is below the least that a frame gets.
    (80, 10.0, 40, 56, True),
]:
    processor = Qwen3VLVideoProcessor(
        size={"shortest_edge": 512, "longest_edge": 4096}, cap_pixels_per_frame=capped, max_video_tokens=768, **patching, **normal
    )
    whole = np.stack([frame(height, width, n) for n in range(total)])
    metadata = VideoMetadata(total_num_frames=total, fps=fps)
    out = processor([torch.from_numpy(whole).permute(0, 3, 1, 2)], video_metadata=[metadata], return_tensors="np", return_metadata=True)
    indices = [int(i) for i in processor.sample_frames(metadata)]
    joint = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    joint.video_processor = processor
    joint.vision_start_token, joint.vision_end_token, joint.video_token = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
    text = joint.replace_video_token(out, 0)
    videos.append(
        {
            "total": total,
            "fps": fps,
            "size": [height, width],
            "capped": capped,
            "indices": indices,
            "grid": out["video_grid_thw"][0].tolist(),
            "tokens": encode("<|vision_start|>" + text + "<|vision_end|>"),
            "pixels": as_bytes(out["pixel_values_videos"]),
        }
    )

source = f"transformers {transformers.__version__}, pillow {PIL.__version__}, tests/oracles/make_processor_golden.py"
json.dump({"source": source, "resize": resize, "images": images, "videos": videos}, open(sys.argv[1], "w"), indent=0)
