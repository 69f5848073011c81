"""`huddle matrix --method content` against the truth: content.py PROGRAM [--seeds N] [--scale N] [--only LAYOUT].

Processes hold memory whose contents are known and repeat within and between them. The truth is computed here with
sets; nothing is taken from the program. The full answer has to equal it. Of sampled ones, each with another sample,
nearly all intervals have to contain it, and their mean has to be near it. Needs Linux, no root and nothing but the
standard library; `--scale` multiplies the number of contents.
"""

import argparse
import ctypes
import json
import mmap
import random
import statistics
import subprocess
import sys

PAGE = mmap.PAGESIZE
SHARES = [0.1, 0.3]
# Of samples that each cover with a probability of 0.95, fewer do so in 1 of 20,000 cases (40 samples).
LEAST_COVERED = 0.8


def contents(first, count, times):
    """Contents from `first` on, each on so many pages; 0 is zero-filled."""
    return [content for content in range(first, first + count) for _ in range(times)]


def layouts(n):
    """Pages of each process, by name of the layout; n is a number of contents."""
    common, own, zeros = n * 3 // 10, n * 4 // 10, n // 10

    def vm(number, common_times, own_times, own_count=own):
        pages = contents(1, common, common_times) + contents(number * 10**6, own_count, own_times)
        return pages + [0] * zeros

    return {
        "once": [vm(1, 1, 1), vm(2, 1, 1)],
        "twice": [vm(1, 2, 2), vm(2, 2, 2, own // 4)],
        # 42.86 % of the first: what a sample of pages took for 93.63 %.
        "three times": [vm(1, 3, 3), vm(2, 3, 3, own // 4)],
        "own pages repeat, common ones do not": [vm(1, 1, 3), vm(2, 1, 2)],
        "common pages repeat, own ones do not": [vm(1, 3, 1), vm(2, 2, 1)],
        "one content on many pages": [vm(1, 1, 2) + [1] * n, vm(2, 2, 1) + [10**6] * 7],
        "three VMs, little in common": [
            vm(1, 1, 2),
            contents(1, n // 50, 2) + contents(2 * 10**6, own, 1),
            contents(3 * 10**6, own, 3) + contents(common, 1, 5),
        ],
    }


def hold():
    """The process: fills memory with the pages on its standard input, and waits for the end of it."""
    pages = json.loads(sys.stdin.readline())
    memory = mmap.mmap(-1, len(pages) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    # A process that marks memory as mergeable has that as its guest memory, and not the rest of Python.
    memory.madvise(mmap.MADV_MERGEABLE)
    for position, content in enumerate(pages):
        # The number at a place that depends on it, so that pages differ anywhere.
        page = bytearray(PAGE)
        if content:
            at = content * 8 % (PAGE - 8)
            page[at : at + 8] = content.to_bytes(8, "little")
        memory[position * PAGE : (position + 1) * PAGE] = bytes(page)
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    print("ready", flush=True)
    sys.stdin.read()


class Holders:
    """A process for each list of pages."""

    def __init__(self, vms):
        start = [sys.executable, __file__, "hold"]
        self.processes = [
            subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in vms
        ]
        for process, pages in zip(self.processes, vms):
            # In an order without any pattern.
            pages = random.Random(len(pages)).sample(pages, len(pages))
            process.stdin.write(json.dumps(pages) + "\n")
            process.stdin.flush()
        for process in self.processes:
            if process.stdout.readline().strip() != "ready":
                sys.exit("content.py: a process could not make its memory (does this kernel have KSM?)")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stdin.close()
            process.wait()

    def ask(self, program, *arguments):
        """The matrix that the program measures."""
        vms = [word for at, process in enumerate(self.processes) for word in ["--vm", f"vm{at}={process.pid}"]]
        command = [program, "matrix", "--method", "content", "--cpu-share", "1", "--format", "json"]
        done = subprocess.run([*command, *arguments, *vms], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"content.py: {program} failed ({done.returncode}): {done.stderr}")
        return json.loads(done.stdout)


def truth(vms):
    """Figures of each process, and frames of each pair, by definition."""
    sets = [set(pages) - {0} for pages in vms]
    figures = []
    for pages, distinct in zip(vms, sets):
        times = {}
        for content in pages:
            times[content] = times.get(content, 0) + 1
        zero = times.pop(0, 0)
        figures.append(
            {
                "pages_resident": len(pages),
                "pages_used": len(pages) - zero,
                "pages_zero": zero,
                "frames_used": len(distinct),
                "self_shared_pages": sum(count for count in times.values() if count > 1),
            }
        )
    shared = [[0 if i == j else len(a & b) for j, b in enumerate(sets)] for i, a in enumerate(sets)]
    return figures, shared


def check_full(name, matrix, figures, shared):
    for vm, expected in zip(matrix["vms"], figures):
        found = {field: vm[field] for field in expected}
        assert found == expected, f"{name}: {vm['name']}: {found}, expected {expected}"
    assert matrix["shared_frames"] == shared, f"{name}: {matrix['shared_frames']}, expected {shared}"
    for i, row in enumerate(shared):
        for j, frames in enumerate(row):
            expected = frames / figures[i]["frames_used"]
            assert abs(matrix["rate"][i][j] - expected) < 1e-12, f"{name}: rate {i} {j}"
    assert matrix["coverage"] == 1.0 and "rate_low" not in matrix, f"{name}: it is no estimate"


def check_sampled(name, share, answers, figures, shared):
    """How often the intervals have the truth, for all rates together."""
    exact = ["pages_resident", "pages_used", "pages_zero"]
    for answer in answers:
        for vm, expected in zip(answer["vms"], figures):
            assert all(vm[field] == expected[field] for field in exact), f"{name}: {vm}, expected {expected}"
        assert answer["coverage"] == share, f"{name}: {answer['coverage']}"
    covered_all, widths = 0, []
    pairs = [(i, j) for i in range(len(shared)) for j in range(len(shared)) if i != j]
    for i, j in pairs:
        expected = shared[i][j] / figures[i]["frames_used"]
        ends = [(answer["rate_low"][i][j], answer["rate_high"][i][j]) for answer in answers]
        covered = sum(low <= expected <= high for low, high in ends)
        least = LEAST_COVERED * len(answers)
        assert covered >= least, f"{name}, {share}: {covered} of {len(answers)} intervals of {i} {j} have {expected}"
        rates = [answer["rate"][i][j] for answer in answers]
        # Five standard errors, by the stated error where all rates are alike.
        spread = max(statistics.pstdev(rates), statistics.mean(answer["rate_error"][i][j] for answer in answers))
        off, allowed = abs(statistics.mean(rates) - expected), 5 * spread / len(rates) ** 0.5
        assert off <= allowed, f"{name}, {share}: mean rate {i} {j} is {statistics.mean(rates)}, truth {expected}"
        covered_all += covered
        widths.append(statistics.mean(high - low for low, high in ends))
    return covered_all / (len(pairs) * len(answers)), statistics.mean(widths)


def main():
    if sys.argv[1:] == ["hold"]:
        return hold()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print("layout | share | samples | intervals with the truth | mean width")
    for name, vms in layouts(2000 * options.scale).items():
        if options.only not in name:
            continue
        figures, shared = truth(vms)
        with Holders(vms) as holders:
            check_full(name, holders.ask(options.program), figures, shared)
            # In several readings, with the same result.
            check_full(name, holders.ask(options.program, "--memory-mib", "1"), figures, shared)
            for share in SHARES:
                answers = [holders.ask(options.program, "--sample", str(share)) for _ in range(options.seeds)]
                covered, width = check_sampled(name, share, answers, figures, shared)
                print(f"{name} | {share} | {options.seeds} | {covered:.1%} | {width:.4f}", flush=True)


if __name__ == "__main__":
    main()
