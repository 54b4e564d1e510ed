"""What callgrind counted, read from the files that it writes: instructions, system calls and calls of every function.

Only the standard library. The format is valgrind's own (its manual, "Callgrind Format Specification"); what belongs to a line of
source is added up for the function that the compiler put it into. Allocations are calls into an allocator from outside of it:
mimalloc, which all of Rust's code uses, and the C library's, which C code uses (aws-lc, zstd).
"""

import collections
import re
import subprocess

import harness

ALLOCATING = re.compile(r"(mi_)?(malloc|zalloc|calloc|realloc|memalign|posix_memalign|aligned_alloc)(_aligned)?")
# Functions of the allocators call each other.
ALLOCATOR = re.compile(r"_?mi_|(__libc_)?(malloc|calloc|realloc|memalign|posix_memalign|aligned_alloc)\b|_int_|_dl_|__rtld_")
# The kernel lends the clock to every process (vDSO), but not to one under valgrind.
CLOCK = re.compile(r"(__vdso_)?(clock_gettime|gettimeofday|time)\b")


class Counts:
    """Of a program, or of a part of its run."""

    def __init__(self):
        self.instructions = collections.Counter()  # by function, without what it calls
        self.system_calls = collections.Counter()  # by function that makes them
        self.clock_reads = collections.Counter()  # by function; no system calls but under valgrind
        self.calls = collections.Counter()  # by (caller, called function)
        self.cost_of_calls = collections.Counter()  # instructions by called function, with what that calls

    def __sub__(self, other):
        left = Counts()
        for name in vars(left):
            mine = collections.Counter(getattr(self, name))
            mine.subtract(getattr(other, name))
            setattr(left, name, mine)
        return left

    def allocations(self):
        """How often memory was asked for, by who did."""
        by_caller = collections.Counter()
        for (caller, called), count in self.calls.items():
            if ALLOCATING.fullmatch(plain(called)) and not ALLOCATOR.match(plain(caller)):
                by_caller[plain(caller)] += count
        return by_caller

    def per_call(self, function):
        """What one call of a function costs with all that it calls."""
        calls = sum(count for (_, called), count in self.calls.items() if called == function)
        return self.cost_of_calls[function] / calls if calls else None


def plain(function):
    """Without callgrind's number of the recursion."""
    return re.sub(r"'\d+$", "", function)


def read(path):
    """A file of callgrind's, for all threads of the process together."""
    names, counts = {}, Counts()
    events, function, called, is_call = [], None, None, False

    def named(text):
        # The name stands beside its number the first time only.
        number, _, name = text.rstrip("\n").partition(" ")
        return names.setdefault(number, name)

    with open(path, errors="replace") as lines:
        for line in lines:
            if line.startswith("events:"):
                events = line.split()[1:]
            elif line.startswith("fn="):
                function = named(line[3:])
            elif line.startswith("cfn="):
                called = named(line[4:])
            elif line.startswith("calls="):
                counts.calls[function, called] += int(line[6:].split()[0])
                # The line after it is what the called function cost.
                is_call = True
            elif line[0] in "+-*0123456789":
                costs = dict(zip(events, map(int, line.split()[1:])))
                if is_call:
                    counts.cost_of_calls[called] += costs.get("Ir", 0)
                else:
                    counts.instructions[function] += costs.get("Ir", 0)
                    calls = counts.clock_reads if CLOCK.match(function) else counts.system_calls
                    calls[function] += costs.get("sysCount", 0)
                is_call = False
    return counts


def dump(pid, prefix):
    """What a program under callgrind has done since the last dump; `prefix`: its `--callgrind-out-file`."""
    done = subprocess.run(["callgrind_control", "--dump", str(pid)], capture_output=True, text=True)
    if "OK" not in done.stdout:
        raise harness.Failure(f"callgrind_control failed: {done.stdout}{done.stderr}")
    [written] = prefix.parent.glob(f"{prefix.name}.*")
    counts = read(written)
    written.unlink()
    return counts
