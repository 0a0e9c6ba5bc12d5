#!/usr/bin/env bash
# Makes the captures and logs of this folder anew: a real nginx behind a real HAProxy,
# a scripted client, tcpdump on both sides. Loopback only, about 40 s. Needs
# tests/servers/setup.sh to have worked, and root (or CAP_NET_RAW) to capture.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
servers=${REPLAY_SERVERS_DIR:-../target/servers}
bin=$(cd "$servers/bin" && pwd) || { echo "run tests/servers/setup.sh first" >&2; exit 1; }
for tool in nginx haproxy tcpdump tshark; do
  [ -x "$bin/$tool" ] || { echo "no $tool: see $servers/MISSING" >&2; exit 1; }
done

# HAProxy's times carry no zone, and nginx's would be this machine's.
export TZ=UTC

dir=$(mktemp -d)
pids=()
stop() { # by pid, and only what we started. TERM: bash starts jobs with INT ignored
  local pid
  for pid in "$@"; do
    kill -TERM "$pid" 2>/dev/null || true
    await 5 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}
gone() { ! kill -0 "$1" 2>/dev/null; }
trap 'stop ${pids[@]+"${pids[@]}"}; rm -rf "$dir"' EXIT

listening() { python3 -c 'import socket,sys; sys.exit(socket.socket().connect_ex(("127.0.0.1", int(sys.argv[1]))) != 0)' "$1"; }
await() { # await SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ "$SECONDS" -lt "$end" ] || { echo "gave up: $*" >&2; return 1; }; sleep 0.05; done
}
for port in 18090 18091; do
  ! listening $port || { echo "port $port is in use" >&2; exit 1; }
done

start_servers() { # start_servers FOLDER: with logs of their own
  mkdir -p "$1/tmp" "$1/html"
  python3 client.py files "$1/html"
  sed "s|@DIR@|$1|g" nginx.conf.in >"$1/nginx.conf"
  sed "s|@DIR@|$1|g" haproxy.cfg.in >"$1/haproxy.cfg"
  "$bin/nginx" -e "$1/nginx-error.log" -p "$1" -c "$1/nginx.conf" & pids+=($!)
  "$bin/haproxy" -db -f "$1/haproxy.cfg" >"$1/haproxy.out" 2>"$1/haproxy.err" & pids+=($!)
  # Now, not later: these connections must be in no capture (and no log) of ours.
  await 10 listening 18091
  await 10 listening 18090
  sleep 0.3
  # Where ours begin. (HAProxy takes O_APPEND off its output: truncating leaves a hole.)
  before=$(wc -c <"$1/haproxy.out")
}

capture() { # capture PORT FILE
  # -Z: else tcpdump, as root, becomes a user that exists only where it is installed.
  # -B: immediate mode uses one slot of the size of -s per packet, so the default holds 30.
  "$bin/tcpdump" -i lo -n -s 65535 -B 65536 -U --immediate-mode -Z "$(id -un)" -w "$dir/$2" \
    "tcp port $1" 2>"$dir/$2.err" & pids+=($!)
  await 10 grep -qs 'listening on' "$dir/$2.err" || { cat "$dir/$2.err" >&2; exit 1; }
}

end_phase() { # everything out of the buffers, then captures first, servers after
  sleep 1
  local i
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do stop "${pids[i]}"; done
  pids=()
  grep -h 'packets dropped by kernel' "$dir"/*.err | grep -v '^0 ' && { echo "packets were lost: run again" >&2; exit 1; }
  return 0
}

echo "shop: about 25 s" >&2
start_servers "$dir/shop"
capture 18090 shop-edge.pcap
capture 18091 shop-backend.pcap
python3 client.py shop >"$dir/shop.json"
end_phase
shop_before=$before

echo "demo: about 6 s" >&2
start_servers "$dir/demo"
capture 18090 demo.pcap
python3 client.py demo >"$dir/demo.json"
end_phase

# only the first frames, to keep the folder below 1 MiB
"$bin/tshark" -r "$dir/shop-edge.pcap" -c 500 -F pcapng -w "$dir/shop-edge.pcapng" 2>/dev/null
cp "$dir"/{shop-edge.pcap,shop-edge.pcapng,shop-backend.pcap,demo.pcap} .
cp "$dir/shop/combined.log" shop-nginx-combined.log
cp "$dir/shop/timed.log" shop-nginx-timed.log
gzip -9nc shop-nginx-combined.log >shop-nginx-combined.log.gz
# what a syslog daemon would have written
tail -c +$((shop_before + 1)) "$dir/shop/haproxy.out" | sed 's/^<[0-9]*>//' >shop-haproxy.log

# The counts in the README come from here, so that they are those of these files.
requests() { # values, not frames: the pipelined pair is one frame
  "$bin/tshark" -r "$1" -d tcp.port==18090,http -d tcp.port==18091,http -o tcp.reassemble_out_of_order:TRUE \
    -Y http.request -T fields -e http.request.method 2>/dev/null | tr ',' '\n' | grep -c .
}
client() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["requests"])' "$dir/$1.json"; }
n=$(client shop)
[ "$(wc -l <shop-nginx-combined.log) $(wc -l <shop-haproxy.log) $(requests shop-edge.pcap)" = "$n $((n + 1)) $n" ] || {
  echo "the counts of client ($n), nginx, HAProxy (one more) and tshark differ" >&2; exit 1; }
{
  echo "| file | bytes | requests |"
  echo "|---|---|---|"
  for f in shop-edge.pcap shop-edge.pcapng shop-backend.pcap demo.pcap; do
    echo "| $f | $(stat -c %s $f) | $(requests $f) (tshark) |"
  done
  for f in shop-nginx-combined.log shop-nginx-timed.log shop-haproxy.log; do
    echo "| $f | $(stat -c %s $f) | $(wc -l <$f) (lines) |"
  done
  echo "| shop-nginx-combined.log.gz | $(stat -c %s shop-nginx-combined.log.gz) | as above |"
  echo
  echo "Counted by the client: shop $(client shop), demo $(client demo); nginx's log of the demo: $(wc -l <"$dir/demo/combined.log")."
  echo
  echo '```'
  echo "shop $(cat "$dir/shop.json")"
  echo "demo $(cat "$dir/demo.json")"
  echo '```'
} >"$dir/counts.md"
python3 - "$dir/counts.md" <<'PY'
import re, sys
text, counts = open("README.md").read(), open(sys.argv[1]).read()
open("README.md", "w").write(re.sub(r"(<!-- counts -->\n).*?(<!-- end -->)", lambda m: m[1] + counts + m[2], text, flags=re.S))
PY
cat "$dir/counts.md"
