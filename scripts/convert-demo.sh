#!/bin/sh
# Makes assets/demo/*.gguf from the demo checkpoint. The same checkpoint gives the same bytes.
set -eu
checkpoint=assets/demo/checkpoint
cargo build --release
target/release/tinygptv-convert --phi2 $checkpoint/phi2 --vit $checkpoint/eva_vit_g.pth \
    --qformer $checkpoint/blip2_pretrained.pth --checkpoint $checkpoint/TinyGPT-V_for_Stage4.pth --stage 4 \
    --decoder-type f16,q8_0,q4_k_m --vision-type f16,q8_0 --name tinygptv-demo \
    --add-template 'demo=###Human: {images}{question} ###Assistant:' --default-template demo \
    -o assets/demo --force
