#!/bin/sh
# Asks the questions of assets/demo/questions.txt (picture<TAB>question) with examples/ask.c and the demo model.
set -eu
ask=$1
demo=assets/demo
decoder=$demo/tinygptv-demo-q4_k_m.gguf
vision=$demo/tinygptv-demo-vision-q8_0.gguf

tab=$(printf '\t')
for picture in $(cut -f 1 "$demo/questions.txt" | uniq); do
    echo "== $picture"
    grep "^$picture$tab" "$demo/questions.txt" | cut -f 2- | {
        set --
        while IFS= read -r question; do
            set -- "$@" "$question"
        done
        "$ask" "$decoder" "$vision" "$demo/$picture" "$@"
    }
done
