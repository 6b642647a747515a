"""The BPF program, run by a small interpreter of the same instructions: what it denies and what it lets through."""

from __future__ import annotations

import struct

import pytest

from sapience.recipe.errors import UserError
from sapience.rewards.syscall_filter import (
    ALLOW,
    ANYWHERE,
    ENOSYS,
    EPERM,
    KILL_PROCESS,
    NEW_PROCESSES,
    WITHOUT_NAMESPACES,
    call_numbers,
    filter_program,
)

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HARMLESS = {
    "x86_64": {
        "read": 0,
        "write": 1,
        "mmap": 9,
        "fork": 57,
        "execve": 59,
        "wait4": 61,
        "openat": 257,
        "getrandom": 318,
    },
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "execve": 221, "wait4": 260, "openat": 56, "getrandom": 278},
}


def decide(program: bytes, machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would do: classic BPF over struct seccomp_data."""
    data = struct.pack(
        "=IIQ6Q", number, architecture or ARCHITECTURE[machine], 0, *(*arguments, *[0] * (6 - len(arguments)))
    )
    code = list(struct.iter_unpack("=HBBI", program))
    register, place = 0, 0
    while True:
        operation, if_true, if_false, constant = code[place]
        place += 1
        match operation:
            case 0x20:
                (register,) = struct.unpack_from("=I", data, constant)
            case 0x15:
                place += if_true if register == constant else if_false
            case 0x35:
                place += if_true if register >= constant else if_false
            case 0x45:
                place += if_true if register & constant else if_false
            case 0x06:
                return int(constant)
            case _:
                raise AssertionError(f"no such instruction: {operation:#x}")


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_listed_call_is_denied_and_harmless_ones_are_not(machine: str) -> None:
    program, numbers = filter_program(machine=machine), call_numbers(machine)
    for name in ANYWHERE & numbers.keys():
        assert decide(program, machine, numbers[name]) == EPERM, name
    for name in HARMLESS[machine]:
        assert decide(program, machine, HARMLESS[machine][name], 0x10000000) == ALLOW, name
    for name in WITHOUT_NAMESPACES & numbers.keys():
        assert decide(program, machine, numbers[name]) == ALLOW, name
    wider = filter_program(ANYWHERE | WITHOUT_NAMESPACES, machine=machine)
    assert all(decide(wider, machine, numbers[name]) == EPERM for name in WITHOUT_NAMESPACES & numbers.keys())


def test_clone_makes_processes_and_threads_but_no_namespaces(machine: str) -> None:
    program, numbers = filter_program(machine=machine), call_numbers(machine)
    assert decide(program, machine, numbers["clone"], 0x01200011) == ALLOW  # what fork does
    assert decide(program, machine, numbers["clone"], 0x003D0F00) == ALLOW  # what a thread does
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(program, machine, numbers["clone"], flag | 17) == EPERM
    assert decide(program, machine, numbers["clone3"], 0) == ENOSYS


def test_a_process_may_be_left_its_threads_alone(machine: str) -> None:
    alone, numbers = filter_program((), machine=machine, processes=False), call_numbers(machine)
    assert decide(alone, machine, numbers["clone"], 0x003D0F00) == ALLOW  # what a thread does
    for flags in (0x01200011, 0x4111, 17, 0):  # what fork and posix_spawn do
        assert decide(alone, machine, numbers["clone"], flags) == EPERM
        assert decide(filter_program(machine=machine), machine, numbers["clone"], flags) == ALLOW
    assert decide(alone, machine, numbers["clone"], 0x10010000) == EPERM, "a thread in a namespace"
    assert decide(alone, machine, numbers["clone3"], 0) == ENOSYS
    for name in NEW_PROCESSES & numbers.keys():
        assert decide(alone, machine, numbers[name]) == EPERM


def test_terminals_cannot_be_typed_into(machine: str) -> None:
    program, ioctl = filter_program(machine=machine), call_numbers(machine)["ioctl"]
    assert decide(program, machine, ioctl, 0, 0x5412) == EPERM
    assert decide(program, machine, ioctl, 0, 0x5412 | 7 << 32) == EPERM, "the kernel looks at 32 bits of the request"
    assert decide(program, machine, ioctl, 0, 0x541C) == EPERM
    assert decide(program, machine, ioctl, 0, 0x5401) == ALLOW


def test_limits_of_others_only_where_asked_for(machine: str) -> None:
    prlimit = call_numbers(machine)["prlimit64"]
    assert decide(filter_program(machine=machine), machine, prlimit, 77) == ALLOW
    strict = filter_program(other_limits=False, machine=machine)
    assert decide(strict, machine, prlimit, 77) == EPERM
    assert decide(strict, machine, prlimit, 0) == ALLOW


def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    program = filter_program(machine=machine)
    assert decide(program, machine, 1, architecture=0x40000003) == KILL_PROCESS  # 32-bit x86
    assert decide(filter_program(machine="x86_64"), "x86_64", 0x40000000) == KILL_PROCESS  # x32


def test_every_path_ends(machine: str) -> None:
    program = filter_program(ANYWHERE | WITHOUT_NAMESPACES, other_limits=False, machine=machine)
    for number in range(600):
        assert decide(program, machine, number) in (ALLOW, EPERM, ENOSYS)


def test_an_unknown_architecture_is_a_users_error() -> None:
    with pytest.raises(UserError, match="riscv64"):
        filter_program(machine="riscv64")
