#!/usr/bin/env bash
# node_exporter 1.5.0: its textfile collector takes a file in OpenMetrics without an error, and makes something else of it:
# counters become untyped, and their help is lost.
#
# The OpenMetrics specification calls itself a development of Prometheus's text format, and Prometheus reads both at a
# scrape. The textfile collector has the parser of the older format alone. To that, `# TYPE x counter` announces a metric x
# that never comes, `x_total` is one without a type, and `# UNIT` and `# EOF` are comments. `promtool check metrics` of the
# same release has the same parser, and is the only one to complain: "no help text". node_textfile_scrape_error is 0 in both
# cases. So a textfile has to be written in the older format, whatever is served at a scrape.
#
# Seen with Debian's prometheus-node-exporter 1.5.0:
#   openmetrics: # TYPE x_total untyped, scrape error 0
#   prometheus: # TYPE x_total counter, scrape error 0
#
# Needs Debian's apt-get and dpkg (nothing is installed), and curl. Listens on loopback only. Ends with 0 while this holds,
# with 1 when it has changed.
set -euo pipefail
lab="$(mktemp -d)"
exporter=""
trap '[ -z "$exporter" ] || kill "$exporter" 2>/dev/null || true; rm -rf "$lab"' EXIT
cd "$lab"
apt-get download -q prometheus-node-exporter >/dev/null 2>&1
dpkg --extract prometheus-node-exporter_*.deb unpacked
mkdir texts
address=127.0.0.1:19187
unpacked/usr/bin/prometheus-node-exporter --web.listen-address="$address" --collector.disable-defaults \
  --collector.textfile --collector.textfile.directory=texts >log 2>&1 &
exporter=$!
for _ in $(seq 100); do
  curl -sf "$address/metrics" >/dev/null && break
  sleep 0.1
done

# What it exports of the file on stdin.
exported() {
  cat >texts/x.prom
  local text
  text="$(curl -sf "$address/metrics")"
  echo "$(grep '^# TYPE x' <<<"$text"), scrape error $(grep -o '^node_textfile_scrape_error .*' <<<"$text" | cut -d' ' -f2)"
}

seen="openmetrics: $(printf '# HELP x What is counted\n# TYPE x counter\nx_total 1\n# EOF\n' | exported)
prometheus: $(printf '# HELP x_total What is counted\n# TYPE x_total counter\nx_total 1\n' | exported)"
echo "$seen"
[ "$seen" = 'openmetrics: # TYPE x_total untyped, scrape error 0
prometheus: # TYPE x_total counter, scrape error 0' ]
