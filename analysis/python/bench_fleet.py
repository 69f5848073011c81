"""How time and memory of `huddle-analysis fleet` grow with the fleet, on generated fleets whose best grouping is known.

    bench_fleet.py PROGRAM GENERATOR [--vms 1000,4000,16000] [--questions families,pairs,hosts,propose] [--dir DIR]

PROGRAM is huddle-analysis with optimised dependencies (`cargo build --release --workspace --bin huddle-analysis`), GENERATOR
the program that `cargo xtask fleet` runs (`cargo build --release --package huddle-record --example generated_fleet`). Hosts
have 50 VMs of 4 GiB, some 1,000 kept hashes each. Printed are for each size bytes of sketches a VM, and for each question the
time, the CPU time (which other load of the machine hardly changes), the ratios to the size before, rows a second and the peak
memory; for `propose` also which part of what the planted grouping saves its moves reach. The last line plans 500,000 VMs from
the last size: the time at its rate of rows. Each fleet is removed before the next one is made.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VMS_PER_HOST = 50
PLANNED_VMS = 500_000


def run(command, stdout):
    """Seconds, CPU seconds and peak memory in MiB of a program."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=stdout)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def arguments_of(question, vms):
    """What is asked; of moves as many as are worth it."""
    return [question, "--format", "json"] + (["--moves", str(vms)] if question == "propose" else [])


def reached(answer, truth):
    """Which part of what the planted grouping saves is saved after the moves, and today."""
    planted = truth["saved_planted_kept"] * truth["one_in"] * truth["page_bytes"]
    return answer["saved_bytes"] / planted, answer["saved_today_bytes"] / planted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, metavar="PROGRAM")
    parser.add_argument("generator", type=Path, metavar="GENERATOR")
    parser.add_argument("--vms", default="1000,4000,16000", metavar="N[,N..]", help="sizes, whole hosts of 50 VMs")
    parser.add_argument("--questions", default="families,pairs,hosts,propose", metavar="NAME[,NAME..]")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where fleets are made (6 KB a VM)")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.vms.split(",")]
    questions = arguments.questions.split(",")
    print(f"{os.cpu_count()} CPUs; {arguments.program}: {arguments.program.stat().st_size / 1e6:.0f} MB", flush=True)
    before = {}
    with tempfile.TemporaryDirectory(prefix="huddle-bench-fleet-", dir=arguments.dir) as work:
        fleet, answer = Path(work) / "fleet", Path(work) / "answer"
        for vms in sizes:
            hosts = vms // VMS_PER_HOST
            seconds, *_ = run([arguments.generator, fleet, str(hosts), str(VMS_PER_HOST)], None)
            truth = json.loads((fleet / "truth.json").read_text())
            each = truth["sketch_bytes"] / truth["vms"]
            print(f"{vms} VMs: made in {seconds:.1f} s, {each:.0f} bytes of sketches a VM", flush=True)
            total = 0
            for question in questions:
                with answer.open("wb") as out:
                    command = [arguments.program, "fleet", *arguments_of(question, vms), fleet]
                    seconds, cpu, memory = run(command, out)
                total += seconds
                text = f"  {question:9} {seconds:8.1f} s, CPU {cpu:8.1f} s {memory:7.0f} MiB {1000 * vms / seconds:10.0f} rows/s"
                if question in before:
                    ratios = (now / then for now, then in zip((seconds, cpu), before[question]))
                    text += ", {:.1f} times the time and {:.1f} times the CPU time of the size before".format(*ratios)
                if question == "propose":
                    text += ", {:.1%} of the planted grouping, today {:.1%}".format(
                        *reached(json.loads(answer.read_text()), truth)
                    )
                before[question] = (seconds, cpu)
                print(text, flush=True)
            shutil.rmtree(fleet)
        hours = total / sizes[-1] * PLANNED_VMS / 3600
        print(f"{PLANNED_VMS} VMs at that rate: {hours:.1f} h, {each * PLANNED_VMS / 1e9:.1f} GB of sketches")


if __name__ == "__main__":
    main()
