#!/usr/bin/env bash
# Prints pip's option for PyTorch's index of builds without CUDA, where it is in reach: pip asks it for every package in vain where it is not.
index=https://download.pytorch.org/whl/cpu
if curl -sfo /dev/null --max-time 10 $index/; then echo "--extra-index-url $index"; fi
