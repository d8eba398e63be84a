"""Greedy decoding by vLLM on the CPU, in bf16: seconds a decoding step (`worker.py`); a request is a batch size.

usage: peer_vllm.py DIRECTORY PROMPT STEPS
"""
import argparse
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("prompt", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    # The engine in this process, so that its memory is seen.
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_OMP_THREADS_BIND=f"0-{args.threads - 1}",
    VLLM_LOGGING_LEVEL="WARNING",
    HF_HUB_OFFLINE="1",
)

from vllm import LLM, SamplingParams  # noqa: E402 (reads the environment)

from worker import serve  # noqa: E402

llm = LLM(
    args.model,
    dtype="bfloat16",
    max_model_len=args.prompt + args.steps + 8,
    max_num_seqs=32,
    enforce_eager=True,
    enable_prefix_caching=False,
    skip_tokenizer_init=True,
)
vocabulary = llm.llm_engine.model_config.get_vocab_size()


def seconds_of(batch, new_tokens):
    prompts = [
        {"prompt_token_ids": [(s * 7919 + p * 104729) % vocabulary for p in range(args.prompt)]} for s in range(batch)
    ]
    sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    llm.generate(prompts, sampling, use_tqdm=False)
    return time.perf_counter() - start


def measure(batch):
    # The prompts' own passes are in both.
    return (seconds_of(batch, 1 + args.steps) - seconds_of(batch, 1)) / args.steps


measure(1)
serve(measure)
