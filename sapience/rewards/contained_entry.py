"""The first thing that runs inside a sandbox of either tier; it shuts the last doors and then runs the given program.

It imports next to nothing: what is loaded here is paid for by every submission. `contained_job.START` has read the job from
standard input, this program with it. It keeps one descriptor for answers, points standard input, output and error at
the null device, closes every other descriptor, sets the limits of a process, puts the job's files into its folder, confines
itself and becomes another user where the tier asks for it, reports the start, and executes the program, which finds
its `payload` as a global and answers on descriptor 3.
The job comes through `marshal`: the same version of Python wrote it outside; nothing that a submission wrote is ever
read like that.
"""

import marshal
import posix
import resource

_ANSWERS = 3


def _shut(limits: bytes) -> None:
    posix.dup2(1, _ANSWERS, inheritable=False)
    posix.closerange(_ANSWERS + 1, 1 << 16)
    for name, soft, hard in marshal.loads(limits):
        resource.setrlimit(getattr(resource, name), (soft, hard))


def _fill(folder: bytes) -> None:
    """Here nothing is confined yet, and a compiler has named the files: no name may lead out of the folder."""
    place, files = marshal.loads(folder)
    if not place:
        return
    posix.chdir(place)
    posix.umask(0o022)
    for name, data in files.items():
        if "/" in name:
            raise ValueError("a file's name is a path")
        descriptor = posix.open(name, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW, 0o755)
        while data:
            data = data[posix.write(descriptor, data) :]
        posix.close(descriptor)


def _become(identity: bytes) -> None:
    number = marshal.loads(identity)
    if number is not None:
        posix.setgroups([])
        posix.setresgid(number, number, number)
        posix.setresuid(number, number, number)


def _enter(job: dict[str, bytes]) -> None:
    _fill(job["folder"])
    if job["confinement"]:
        exec(marshal.loads(job["confinement"]), {"__name__": "confinement", "wishes": marshal.loads(job["wishes"])})
    null = posix.open("/dev/null", posix.O_RDWR)
    _become(job["identity"])
    for descriptor in (0, 1, 2):
        posix.dup2(null, descriptor)
    posix.close(null)
    posix.write(_ANSWERS, b"started\n")
    exec(marshal.loads(job["program"]), {"__name__": "contained", "payload": marshal.loads(job["payload"])})
    posix._exit(0)


if __name__ == "entry":
    _shut(job["limits"])  # type: ignore[name-defined]  # noqa: F821
    _enter(job)  # type: ignore[name-defined]  # noqa: F821
