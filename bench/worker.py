"""The peers' side of `compare.py`: a process that measures once for every line of standard input."""
import json
import os
import sys


def peak_mib():
    """The most resident memory since the last reset."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


class Requests:
    """Lines of standard input, each a JSON list of arguments, and their answers.

    What libraries print goes to standard error. The peak of memory does not count what loading took beyond what it left.
    """

    def __init__(self):
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def ready(self):
        try:
            with open("/proc/self/clear_refs", "w") as clear:
                clear.write("5")
        except OSError:
            pass  # refused in some containers; the peak is then of the whole process
        print("ready", file=self.out, flush=True)

    def next(self):
        """The next request; `None` after the last."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def answer(self, seconds):
        print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}), file=self.out, flush=True)


def serve(measure):
    """Answers every request with the seconds that `measure` gives for its arguments."""
    requests = Requests()
    requests.ready()
    while (arguments := requests.next()) is not None:
        requests.answer(measure(*arguments))
