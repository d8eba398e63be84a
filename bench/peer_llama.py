"""Greedy batched decoding of a GGUF file by llama.cpp: seconds a decoding step (`worker.py`); a request is a batch size.

usage: peer_llama.py FILE.gguf PROMPT STEPS
       peer_llama.py quantize FILE.gguf OUT.gguf bf16|q8_0   (from an f32 file)
"""
import argparse
import ctypes
import sys
import time

import llama_cpp as llama
import numpy

from worker import serve

llama.llama_backend_init()


@llama.llama_log_callback
def quiet(_level, _text, _data):
    pass


llama.llama_log_set(quiet, ctypes.c_void_p(0))

if sys.argv[1] == "quantize":
    source, target, kind = sys.argv[2:]
    options = llama.llama_model_quantize_default_params()
    options.ftype = {"bf16": 32, "q8_0": 7}[kind]
    options.nthread = 2
    sys.exit(llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)))

parser = argparse.ArgumentParser()
parser.add_argument("file")
parser.add_argument("prompt", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--most", type=int, default=32, help="the largest batch")
args = parser.parse_args()

model = llama.llama_model_load_from_file(args.file.encode(), llama.llama_model_default_params())
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
options = llama.llama_context_default_params()
options.n_ctx = args.most * (args.prompt + args.steps + 8)
options.n_batch = args.most * args.prompt
options.n_ubatch = 512
options.n_seq_max = args.most
options.n_threads = options.n_threads_batch = args.threads
context = llama.llama_init_from_model(model, options)
rows = llama.llama_batch_init(options.n_batch, 0, 1)


def decode(tokens):
    """`tokens`: (token, position, sequence, whether logits are wanted) of every row."""
    for i, (token, position, sequence, wanted) in enumerate(tokens):
        rows.token[i], rows.pos[i], rows.logits[i] = token, position, wanted
        rows.n_seq_id[i], rows.seq_id[i][0] = 1, sequence
    rows.n_tokens = len(tokens)
    if llama.llama_decode(context, rows) != 0:
        sys.exit("llama_decode failed")


def likeliest(row):
    logits = llama.llama_get_logits_ith(context, row)
    return int(numpy.argmax(numpy.ctypeslib.as_array(logits, shape=(vocabulary,))))


def measure(batch):
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    end = args.prompt - 1
    token = lambda s, p: (s * 7919 + p * 104729) % vocabulary
    decode([(token(s, p), p, s, p == end) for s in range(batch) for p in range(args.prompt)])
    following = [likeliest(s * args.prompt + end) for s in range(batch)]
    start = time.perf_counter()
    for step in range(args.steps):
        decode([(following[s], args.prompt + step, s, True) for s in range(batch)])
        following = [likeliest(s) for s in range(batch)]
    return (time.perf_counter() - start) / args.steps


measure(1)
serve(measure)
