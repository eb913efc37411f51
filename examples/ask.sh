#!/usr/bin/env bash
# Asks one question and prints its events, continuing at the last position after every break. Run: examples/ask.sh 你好
set -euo pipefail

gateway=${GATEWAY_URL:-http://127.0.0.1:3000}
message=${1:-你好}
key=$(uuidgen 2>/dev/null || cat /proc/sys/kernel/random/uuid) # every attempt has the same key, so the question is asked only once
headers=(-H 'Content-Type: application/json' -H "Idempotency-Key: $key")
[[ -n ${TOKEN:-} ]] && headers+=(-H "Authorization: Bearer $TOKEN")

quoted=${message//\\/\\\\}
quoted=${quoted//\"/\\\"}
body='{"userId":"u-17","botId":"7566252531572473891","shopId":"test-shop","message":"'$quoted'"}'

position=()
for _ in {1..20}; do
    while IFS= read -r line; do
        case $line in
            'id: '*) position=(-H "Last-Event-ID: ${line#id: }") ;;
            'data: '*)
                printf '%s\n' "${line#data: }"
                case $line in 'data: {"event":"completed"'* | 'data: {"event":"cancelled"'* | 'data: {"event":"error"'*) exit ;; esac
                ;;
            '{'*) printf '%s\n' "$line" >&2; [[ $line == *'"status":5'* || $line == *'"status":429'* ]] || exit 1 ;; # a problem
        esac
    done < <(curl -sSN -X POST "$gateway/api/coze/chat/stream" "${headers[@]}" ${position[@]+"${position[@]}"} -d "$body"; echo)
    sleep 1
done
echo 'no answer after 20 tries' >&2
exit 1
