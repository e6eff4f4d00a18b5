#!/usr/bin/env bash
# Measure some models under some settings into one SQLite file, and print the best row of each: an example of use.
#
#   scripts/bench_matrix.sh results.db model.gguf other.gguf org/repo:Q4_K_M
#   FLAGS='-p 512 -n 64 -d 0,4096 --sweep kv=f16,q8_0' scripts/bench_matrix.sh results.db demo
#
# What is not on this disk is measured by its header alone. The table is llama-bench's, with moetool's columns
# behind: whatever reads llama-bench's results reads these too.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
fi
moetool=${MOETOOL:-moetool}
database=$1
shift
read -ra flags <<<"${FLAGS:--p 512 -n 64 -r 3 --sweep kv=f16,q8_0}"

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
for model in "$@"; do
    code=0
    $moetool bench "$model" "${flags[@]}" --output sql >"$rows" || code=$?
    if [ "$code" -eq 5 ]; then # not on this disk
        code=0
        $moetool bench "$model" --header-only "${flags[@]}" --output sql >"$rows" || code=$?
    fi
    if [ "$code" -eq 130 ]; then exit 130; fi
    if [ "$code" -eq 0 ]; then # else its error is on stderr, and the others are measured all the same
        python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())' \
            "$database" <"$rows"
    fi
done

python3 - "$database" <<'END'
import sqlite3
import sys

rows = sqlite3.connect(sys.argv[1]).execute(
    "SELECT model_type, type_k, n_threads, n_prompt, n_gen, max(avg_ts), memory_bytes FROM llama_bench"
    " GROUP BY model_filename, n_prompt, n_gen, n_depth ORDER BY model_filename, n_prompt DESC"
)
print(f"{'model':40} {'kv':6} {'threads':>7} {'test':>12} {'t/s':>10} {'GiB':>7}")
for kind, kv, threads, prompt, gen, rate, memory in rows:
    test = "+".join([f"pp{prompt}"] * bool(prompt) + [f"tg{gen}"] * bool(gen))
    print(f"{kind[:40]:40} {kv:6} {threads:7} {test:>12} {rate:10.2f} {memory / 2**30:7.2f}")
END
