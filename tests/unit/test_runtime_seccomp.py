"""The seccomp compiler, judged by an interpreter of the programs that it makes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynet.runtime.grammar import capabilities
from pynet.runtime.spec import DEFAULT_CAPABILITIES
from pynet.runtime.supervisor import seccomp, syscalls

X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
ALLOW, KILL = seccomp.ALLOW, seccomp.KILL_PROCESS
EPERM, ENOSYS = seccomp.ERRNO | 1, seccomp.ERRNO | 38
DEFAULT = capabilities.mask(DEFAULT_CAPABILITIES)
NUMBERS = syscalls.numbers("x86_64")


def judge(program: bytes, number: int, *arguments: int, arch: int = X86_64) -> int:
    """Run *program* on one call as the kernel would (struct seccomp_data; linux/filter.h): the action."""
    padded = [argument & (1 << 64) - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    code = [struct.unpack_from("<HBBI", program, offset) for offset in range(0, len(program), 8)]
    accumulator = place = 0
    while True:
        operation, true, false, constant = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif operation == 0x54:
            accumulator &= constant
        elif operation == 0x05:
            place += constant
        elif operation == 0x06:
            return int(constant)
        else:
            holds = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant}
            place += true if holds[operation] else false


def default(mask: int = DEFAULT, machine: str = "x86_64") -> bytes:
    return seccomp.compile_rules(seccomp.default_rules(mask, machine), EPERM, machine)


@pytest.mark.parametrize("name", ["read", "execve", "futex", "ptrace", "clone", "arch_prctl", "fchmodat2"])
def test_ordinary_calls_are_allowed(name: str) -> None:
    assert judge(default(), NUMBERS[name]) == ALLOW


@pytest.mark.parametrize(
    "name",
    ["mount", "unshare", "setns", "bpf", "reboot", "kexec_load", "init_module", "swapon", "keyctl", "io_uring_setup", "iopl"],
)  # fmt: skip
def test_dangerous_calls_are_refused(name: str) -> None:
    assert judge(default(), NUMBERS[name]) == EPERM


def test_what_is_newer_does_not_exist() -> None:
    assert judge(default(), max(NUMBERS.values()) + 1) == ENOSYS
    assert judge(default(), 100_000) == ENOSYS


def test_clone_may_not_make_namespaces_without_sys_admin() -> None:
    program = default()
    assert judge(program, NUMBERS["clone"], 0x01200011) == ALLOW
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x02000000, 0x04000000, 0x08000000):
        assert judge(program, NUMBERS["clone"], flag | 0x11) == EPERM, hex(flag)
    assert judge(program, NUMBERS["clone3"]) == ENOSYS
    admin = default(DEFAULT | capabilities.mask(["SYS_ADMIN"]))
    assert judge(admin, NUMBERS["clone"], 0x10000000) == judge(admin, NUMBERS["clone3"]) == ALLOW
    assert judge(admin, NUMBERS["mount"]) == judge(admin, NUMBERS["setns"]) == ALLOW


def test_arguments_of_personality_and_socket() -> None:
    program = default()
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert judge(program, NUMBERS["personality"], value) == ALLOW
    for value in (1, 0x40000, 0x0040000 | 8, 1 << 32):
        assert judge(program, NUMBERS["personality"], value) == EPERM
    assert judge(program, NUMBERS["socket"], 2) == ALLOW
    assert judge(program, NUMBERS["socket"], 40) == EPERM


def test_other_architectures_are_not_judged_by_this_table() -> None:
    assert judge(default(), 0, arch=I386) == KILL
    assert judge(default(), 0x40000000 | NUMBERS["read"]) == ENOSYS
    program = default(machine="aarch64")
    arm = syscalls.numbers("aarch64")
    assert judge(program, arm["read"], arch=AARCH64) == ALLOW
    assert judge(program, arm["mount"], arch=AARCH64) == EPERM
    assert judge(program, NUMBERS["read"], arch=X86_64) == KILL


def test_every_name_of_the_profile_is_a_call() -> None:
    known = set(NUMBERS) | set(syscalls.numbers("aarch64"))
    names = " ".join([seccomp._ALWAYS, *seccomp._WITH_CAPABILITY.values(), *seccomp._OF_ARCHITECTURE.values()]).split()
    assert set(names) <= known
    assert NUMBERS["open_tree_attr"] == syscalls.numbers("aarch64")["open_tree_attr"] == 467
    assert (NUMBERS["read"], NUMBERS["rseq"], NUMBERS["pidfd_send_signal"]) == (0, 334, 424)


OPERATORS: dict[str, Callable[[int, int, int], bool]] = {
    "SCMP_CMP_EQ": lambda a, v, _: a == v,
    "SCMP_CMP_NE": lambda a, v, _: a != v,
    "SCMP_CMP_LT": lambda a, v, _: a < v,
    "SCMP_CMP_LE": lambda a, v, _: a <= v,
    "SCMP_CMP_GT": lambda a, v, _: a > v,
    "SCMP_CMP_GE": lambda a, v, _: a >= v,
    "SCMP_CMP_MASKED_EQ": lambda a, v, w: a & v == w,
}
words = st.one_of(
    st.sampled_from([0, 1, 2, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 63, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(OPERATORS)), words, words, words, st.integers(0, 5))
def test_argument_tests_have_64_bits(operator: str, value: int, second: int, argument: int, index: int) -> None:
    test = {"index": index, "value": value, "valueTwo": second, "op": operator}
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [test]}
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}
    rules, action = seccomp.json_rules(profile, 0, "x86_64")
    program = seccomp.compile_rules(rules, action, "x86_64")
    arguments = [0] * 6
    for candidate in (argument, value, second):
        arguments[index] = candidate
        expected = ALLOW if OPERATORS[operator](candidate, value, second) else EPERM
        assert judge(program, NUMBERS["read"], *arguments) == expected


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 480), max_size=200))
def test_any_set_of_numbers_is_told_apart(allowed: set[int]) -> None:
    rules: seccomp.Rules = {number: [((), ALLOW)] for number in allowed}
    program = seccomp.compile_rules(rules, EPERM, "x86_64")
    last = max(allowed, default=-1)
    for number in range(500):
        expected = ALLOW if number in allowed else EPERM if number < last else ENOSYS
        assert judge(program, number) == expected


def test_a_profile_with_conditions() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_KILL_PROCESS", "includes": {"caps": ["CAP_BPF"]}},
            {"names": ["read"], "action": "SCMP_ACT_TRAP", "includes": {"arches": ["arm64"]}},
            {"names": ["write"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "3.0"}},
            {"name": "open", "action": "SCMP_ACT_ERRNO"},
        ],
    }
    rules, action = seccomp.json_rules(profile, 0, "x86_64")
    program = seccomp.compile_rules(rules, action, "x86_64")
    assert judge(program, NUMBERS["mount"]) == seccomp.ERRNO | 7
    assert judge(program, NUMBERS["bpf"]) == judge(program, NUMBERS["read"]) == ALLOW
    assert judge(program, NUMBERS["write"]) == seccomp.LOG
    assert judge(program, NUMBERS["open"]) == EPERM
    assert judge(program, 5000) == ALLOW
    rules, action = seccomp.json_rules(profile, capabilities.mask(["SYS_ADMIN", "BPF"]), "x86_64")
    program = seccomp.compile_rules(rules, action, "x86_64")
    assert judge(program, NUMBERS["mount"]) == ALLOW
    assert judge(program, NUMBERS["bpf"]) == KILL


@pytest.mark.parametrize(
    "profile",
    [
        [],
        {},
        {"defaultAction": "SCMP_ACT_MAYBE"},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "no"}]},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 9, "value": 1, "op": "no"}]}],
        },
    ],
)  # fmt: skip
def test_a_broken_profile_is_named_so(profile: object) -> None:
    with pytest.raises(ValueError):
        seccomp.json_rules(profile, 0, "x86_64")
