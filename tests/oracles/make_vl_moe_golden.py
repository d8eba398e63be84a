"""Writes tests/golden/models/qwen3_vl_moe: a tiny random Qwen3-VL-MoE, and what transformers computes with it in f64.

usage: make_vl_moe_golden.py OUT_DIR     (needs transformers 5, torch, safetensors)
"""

import json
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

out = sys.argv[1]
torch.manual_seed(3)
IMAGE, VIDEO, START, END = 59, 60, 61, 62
rope = {"rope_theta": 5e6, "rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}
config = Qwen3VLMoeConfig(
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    vision_start_token_id=START,
    vision_end_token_id=END,
    tie_word_embeddings=False,
    text_config=dict(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=12, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=6, num_experts_per_tok=2,
        mlp_only_layers=[1], max_position_embeddings=256, rope_parameters=rope, pad_token_id=None, norm_topk_prob=True,
    ),
    vision_config=dict(
        depth=3, hidden_size=24, num_heads=2, intermediate_size=40, patch_size=4, temporal_patch_size=2,
        spatial_merge_size=2, in_channels=3, out_hidden_size=32, num_position_embeddings=25,
        deepstack_visual_indexes=[0, 2],
    ),
)
config._attn_implementation = "eager"
config._experts_implementation = "eager"
model = Qwen3VLMoeForConditionalGeneration(config).eval()
with torch.no_grad():
    for name, p in model.named_parameters():
        if p.dim() == 1:
            one = 1.0 if name.endswith("weight") else 0.0
            p.copy_(one + 0.2 * torch.randn_like(p))
        else:
            fan = p[0].numel() if p.dim() != 3 else p.shape[2]
            p.copy_(torch.randn_like(p) / fan**0.5)
model.save_pretrained(out)
model = model.double()

# Two sequences: an image, a video of two frame groups and an image; and two images side by side in the text.
def span(start_text, kind, n):
    return [*start_text, START, *[kind] * n, END]

first = span([3, 17], IMAGE, 6) + span([42, 8], VIDEO, 4) + span([9], VIDEO, 4) + span([], IMAGE, 2) + [25, 31]
second = span([5], IMAGE, 4) + span([6, 11], IMAGE, 6)
second += [1 + (7 * i) % 50 for i in range(len(first) - len(second))]
ids = torch.tensor([first, second])
images = torch.tensor([[1, 4, 6], [1, 2, 4], [1, 4, 4], [1, 6, 4]])
videos = torch.tensor([[2, 4, 4]])
kinds = torch.where(ids == IMAGE, 1, torch.where(ids == VIDEO, 2, 0)).int()
pixels = torch.randn(int(images.prod(1).sum()), 96)
frames = torch.randn(int(videos.prod(1).sum()), 96)

positions, delta = model.model.get_rope_index(ids, kinds, images, videos)
seen = model.model.get_image_features(pixels.double(), images)
result = model(
    input_ids=ids, mm_token_type_ids=kinds, pixel_values=pixels.double(), pixel_values_videos=frames.double(),
    image_grid_thw=images, video_grid_thw=videos, output_router_logits=True,
)
logits = result.logits
logp = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
nll = -logp.mean()
nll.backward()
save_file(
    {
        "input_ids": ids,
        "position_ids": positions[-3:].contiguous(),
        "rope_delta": delta.flatten().contiguous(),
        "pixel_values": pixels,
        "pixel_values_videos": frames,
        "image_grid_thw": images,
        "video_grid_thw": videos,
        "image_embeds": torch.cat(tuple(seen.pooler_output)).float().detach(),
        "deepstack": torch.stack([torch.cat(tuple(level)) for level in seen.deepstack_features]).float().detach(),
        "logits": logits.float().detach(),
        "logp": logp.float().detach(),
        "router_logits": torch.stack([r.reshape(-1, 6) for r in result.router_logits]).float().detach(),
    },
    f"{out}/expected.safetensors",
)
# The first sequence, continued; its images are the first two.
with torch.no_grad():
    greedy = model.generate(
        input_ids=ids[:1], mm_token_type_ids=kinds[:1], pixel_values=pixels[: int(images[:2].prod(1).sum())].double(),
        image_grid_thw=images[:2], pixel_values_videos=frames.double(), video_grid_thw=videos,
        attention_mask=torch.ones_like(ids[:1]), do_sample=False, max_new_tokens=12,
    )[0, ids.shape[1] :].tolist()
norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
source = f"transformers {transformers.__version__}, float64 compute, tests/oracles/make_vl_moe_golden.py"
continued = {"tokens": greedy, "images": 2, "videos": 1}
json.dump({"source": source, "mean_nll": nll.item(), "greedy": continued, "grad_norms": norms}, open(f"{out}/expected.json", "w"), indent=1)
