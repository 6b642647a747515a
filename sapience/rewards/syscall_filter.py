"""The list of system calls that no submission needs, as a classic BPF program for seccomp.

Namespaces and Landlock keep a program away from files and the network; this keeps it away from those parts of the
kernel where escapes were found again and again (mounts, tracing, keys, io_uring, bpf, nested user namespaces), and
from memory that no limit of a process counts (memfd, System V shared memory). The program is put together here byte
by byte, since eight bytes an instruction are less to trust than one more native library.

Denied calls answer EPERM, so that Python raises PermissionError instead of dying; clone3 answers ENOSYS, after which
the C library falls back to clone, whose flags can be seen by a filter (those of clone3 lie behind a pointer).
Another architecture's calls and x32 calls kill the process, as their numbers mean other things.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable

from sapience.recipe.errors import UserError

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS = """
ptrace 101 117 | process_vm_readv 310 270 | process_vm_writev 311 271 | kcmp 312 272 | pidfd_getfd 438 438
process_madvise 440 440 | mount 165 40 | umount2 166 39 | pivot_root 155 41 | chroot 161 51 | open_tree 428 428
move_mount 429 429 | fsopen 430 430 | fsconfig 431 431 | fsmount 432 432 | fspick 433 433 | mount_setattr 442 442
setns 308 268 | unshare 272 97 | bpf 321 280 | perf_event_open 298 241 | add_key 248 217 | request_key 249 218
keyctl 250 219 | userfaultfd 323 282 | io_uring_setup 425 425 | io_uring_enter 426 426 | io_uring_register 427 427
name_to_handle_at 303 264 | open_by_handle_at 304 265 | kexec_load 246 104 | kexec_file_load 320 294
init_module 175 105 | finit_module 313 273 | delete_module 176 106 | reboot 169 142 | swapon 167 224 | swapoff 168 225
acct 163 89 | settimeofday 164 170 | clock_settime 227 112 | adjtimex 159 171 | clock_adjtime 305 266 | syslog 103 116
quotactl 179 60 | quotactl_fd 443 443 | personality 135 92 | move_pages 279 239 | migrate_pages 256 238
mbind 237 235 | set_mempolicy 238 237 | vhangup 153 58 | memfd_create 319 279 | memfd_secret 447 447
shmget 29 194 | shmat 30 196 | msgget 68 186 | semget 64 190 | iopl 172 - | ioperm 173 - | modify_ldt 154 -
uselib 134 - | ustat 136 - | sysfs 139 -
clone 56 220 | clone3 435 435 | ioctl 16 29
socket 41 198 | kill 62 129 | tkill 200 130 | tgkill 234 131 | rt_sigqueueinfo 129 138 | rt_tgsigqueueinfo 297 240
pidfd_send_signal 424 424 | pidfd_open 434 434 | setsid 112 157 | setpgid 109 154 | prlimit64 302 261
setpriority 141 140 | ioprio_set 251 30 | sched_setparam 142 118 | sched_setscheduler 144 119
sched_setaffinity 203 122 | sched_setattr 314 274 | truncate 76 45
chmod 90 - | fchmod 91 52 | fchmodat 268 53 | fchmodat2 452 452 | chown 92 - | lchown 94 - | fchown 93 55
fchownat 260 54 | utime 132 - | utimes 235 - | futimesat 261 - | utimensat 280 88 | setxattr 188 5 | lsetxattr 189 6
fsetxattr 190 7 | removexattr 197 14 | lremovexattr 198 15 | fremovexattr 199 16 | setxattrat 463 463
removexattrat 466 466 | mq_open 240 180 | mq_unlink 241 181 | inotify_init 253 - | inotify_init1 294 26
fanotify_init 300 262 | fork 57 - | vfork 58 -
"""
"""Name, number on x86_64, number on aarch64; a dash where the call does not exist."""

ANYWHERE = frozenset(
    """
ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise mount umount2 pivot_root chroot open_tree
move_mount fsopen fsconfig fsmount fspick mount_setattr setns unshare bpf perf_event_open add_key request_key keyctl
userfaultfd io_uring_setup io_uring_enter io_uring_register name_to_handle_at open_by_handle_at kexec_load
kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct settimeofday clock_settime adjtimex
clock_adjtime syslog quotactl quotactl_fd personality move_pages migrate_pages mbind set_mempolicy vhangup memfd_create
memfd_secret shmget shmat msgget semget iopl ioperm modify_ldt uselib ustat sysfs
""".split()
)
"""Denied in every tier."""

WITHOUT_NAMESPACES = frozenset(
    """
socket kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pidfd_open setsid setpgid setpriority
ioprio_set sched_setparam sched_setscheduler sched_setaffinity sched_setattr truncate chmod fchmod fchmodat fchmodat2
chown lchown fchown fchownat utime utimes futimesat utimensat setxattr lsetxattr fsetxattr removexattr lremovexattr
fremovexattr setxattrat removexattrat mq_open mq_unlink inotify_init inotify_init1 fanotify_init
""".split()
)
"""Denied too where other processes, the network and the owner's files are in the same namespaces.

No process leaves the group that it will be killed with (setsid, setpgid), none sends signals, and what Landlock does
not guard (modes, owners, times, attributes of files) is left alone.
"""

NEW_PROCESSES = frozenset({"fork", "vfork"})
"""Denied where a program may have threads but no second process; so is `clone`, by its flags."""

_THREAD = 0x00010000  # CLONE_THREAD
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: both can type into the terminal they are called on

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # places in struct seccomp_data; arguments are 8 bytes, low half first
KILL_PROCESS, ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
EPERM, ENOSYS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS


def call_numbers(machine: str) -> dict[str, int]:
    """Numbers of the calls this module knows, on "x86_64" or "aarch64"."""
    column = {"x86_64": 1, "aarch64": 2}[machine]
    rows = [entry.split() for line in _NUMBERS.split("\n") for entry in line.split("|") if entry.strip()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def filter_program(
    denied: Iterable[str] = ANYWHERE, other_limits: bool = True, machine: str = "", processes: bool = True
) -> bytes:
    """The BPF program for this machine as bytes, eight for each instruction.

    `other_limits=False` also denies prlimit64 with a process number, which would reach other processes of the user;
    `processes=False` leaves a process its threads and no children.
    Raises UserError on an architecture without a table.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCHITECTURE:
        raise UserError(
            f"programs cannot be contained on {machine}: run code rewards on "
            f"{' or '.join(_AUDIT_ARCHITECTURE)}, or take code problems out of the recipe"
        )
    numbers = call_numbers(machine)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, KILL_PROCESS)]  # x32
    code += [(_EQUAL, 0, 1, numbers["clone3"]), (_RETURN, 0, 0, ENOSYS)]
    for name in sorted({*denied} if processes else {*denied} | NEW_PROCESSES):
        if name in numbers:
            code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, EPERM)]
    threads_alone = [] if processes else [(_ANY_BIT, 1, 0, _THREAD), (_RETURN, 0, 0, EPERM)]
    code += [
        (_EQUAL, 0, 4 + len(threads_alone), numbers["clone"]),
        (_LOAD, 0, 0, _ARGUMENTS),
        (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, EPERM),
        *threads_alone,
        (_RETURN, 0, 0, ALLOW),
        (_EQUAL, 0, 5, numbers["ioctl"]),
        (_LOAD, 0, 0, _ARGUMENTS + 8),
        (_EQUAL, 1, 0, _TERMINAL_INPUT[0]),
        (_EQUAL, 0, 1, _TERMINAL_INPUT[1]),
        (_RETURN, 0, 0, EPERM),
        (_RETURN, 0, 0, ALLOW),
    ]
    if not other_limits:
        code += [
            (_EQUAL, 0, 4, numbers["prlimit64"]),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_EQUAL, 1, 0, 0),
            (_RETURN, 0, 0, EPERM),
            (_RETURN, 0, 0, ALLOW),
        ]
    code.append((_RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
