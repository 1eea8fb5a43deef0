"""Seccomp: Docker's default profile, its JSON format, and a compiler to BPF.

    profile (ours, or the user's) --rules for these capabilities--> {number: [(argument tests, action)]}
        --runs of numbers with the same answer--> binary search tree --> struct sock_filter[]

The default profile is an allow list (moby, profiles/seccomp/default.json): what it does not name fails with EPERM, and
what is newer than everything it names with ENOSYS, as runc does, so that a C library falls back instead of failing.
A program of another architecture or ABI (i386, x32) is refused as a whole: filters that judge foreign numbers by this
table would be holes.  Nothing of libseccomp is needed; a search tree of about 180 instructions judges a call in
about eight comparisons.  Programs are cached by profile and the capabilities that matter.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from ..grammar import capabilities
from . import syscalls

ALLOW, KILL_PROCESS, KILL_THREAD, TRAP, LOG, TRACE, ERRNO = (
    0x7FFF0000, 0x80000000, 0, 0x00030000, 0x7FFC0000, 0x7FF00000, 0x00050000,
)  # fmt: skip
EPERM, ENOSYS = 1, 38
_ARCHITECTURES = {
    "x86_64": (0xC000003E, "amd64", "SCMP_ARCH_X86_64"),
    "aarch64": (0xC00000B7, "arm64", "SCMP_ARCH_AARCH64"),
}
"""AUDIT_ARCH_* (linux/audit.h), Docker's name, libseccomp's name."""
_X32_BIT = 0x40000000

_LD, _JA, _JEQ, _JGT, _JGE, _RET, _AND = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06, 0x54
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data; both architectures are little endian."""

Test = tuple[int, str, int, int]
"""Argument index, operator ("==", "!=", "<", "<=", ">", ">=", "&"), value, second value (for "&": (arg & value) == second)."""
Rule = tuple[tuple[Test, ...], int]
"""Tests that must all hold, and the action then."""
Rules = dict[int, list[Rule]]

# -- the default profile -------------------------------------------------------------------------------------------

_ALWAYS = """
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown clock_adjtime clock_getres
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat
fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex
futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents
getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup
io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise
map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv
msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64
process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto
set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority
setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget
shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statmount statx symlink symlinkat sync
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat uretprobe utime
utimensat utimes vfork vmsplice wait4 waitid write writev
"""
_OF_ARCHITECTURE = {"x86_64": "arch_prctl modify_ldt", "aarch64": ""}
_WITH_CAPABILITY = {
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "PERFMON": "perf_event_open",
    "SYSLOG": "syslog",
    "SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr"
    " move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime settimeofday",
    "SYS_TTY_CONFIG": "vhangup",
}
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, both with UNAME26, and the question (personality(2))."""
_NAMESPACE_FLAGS = 0x7E020000
"""Every CLONE_NEW* but NEWTIME, whose bit clone(2) uses for the signal."""
_AF_VSOCK = 40


def default_rules(capability_mask: int, machine: str) -> Rules:
    """Docker's default profile for a process with these capabilities."""
    table = syscalls.numbers(machine)
    rules: Rules = {}

    def add(name: str, *tests: Test, action: int = ALLOW) -> None:
        if name in table:
            rules.setdefault(table[name], []).append((tests, action))

    for name in _ALWAYS.split() + _OF_ARCHITECTURE[machine].split():
        add(name)
    for capability, names in _WITH_CAPABILITY.items():
        if capability_mask & capabilities.mask([capability]):
            for name in names.split():
                add(name)
    for value in _PERSONALITIES:
        add("personality", (0, "==", value, 0))
    add("socket", (0, "!=", _AF_VSOCK, 0))
    if not capability_mask & capabilities.mask(["SYS_ADMIN"]):
        add("clone", (0, "&", _NAMESPACE_FLAGS, 0))
        add("clone3", action=ERRNO | ENOSYS)  # its flags are behind a pointer: the C library falls back to clone
    return rules


# -- Docker's JSON format ------------------------------------------------------------------------------------------

_ACTIONS = {
    "SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_KILL": KILL_THREAD, "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS, "SCMP_ACT_TRAP": TRAP, "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ERRNO": ERRNO, "SCMP_ACT_TRACE": TRACE,
}  # fmt: skip
_OPERATORS = {
    "SCMP_CMP_EQ": "==", "SCMP_CMP_NE": "!=", "SCMP_CMP_LT": "<", "SCMP_CMP_LE": "<=", "SCMP_CMP_GT": ">",
    "SCMP_CMP_GE": ">=", "SCMP_CMP_MASKED_EQ": "&",
}  # fmt: skip


def _action(name: Any, number: Any) -> int:
    if name not in _ACTIONS:
        raise ValueError(f"unknown action {name!r}")
    action = _ACTIONS[name]
    if action in (ERRNO, TRACE):
        action |= (EPERM if number is None else int(number)) & 0xFFFF
    return action


def _applies(conditions: dict[str, Any], capability_mask: int, docker_arch: str, *, every: bool) -> list[bool]:
    """What each kind of condition says; *every* capability must be there (includes), or any (excludes)."""
    answers: list[bool] = []
    if caps := conditions.get("caps"):
        have = [bool(capability_mask & capabilities.mask([name])) for name in caps]
        answers.append(all(have) if every else any(have))
    if arches := conditions.get("arches"):
        answers.append(docker_arch in arches)
    if minimum := conditions.get("minKernel"):
        release = os.uname().release.split("-")[0].split(".")
        answers.append(tuple(map(int, release[:2])) >= tuple(map(int, str(minimum).split(".")[:2])))
    return answers


def _test(argument: dict[str, Any]) -> Test:
    operator = _OPERATORS.get(argument.get("op", ""))
    index = int(argument["index"])
    if operator is None or not 0 <= index <= 5:
        raise ValueError(f"bad argument test {argument!r}")
    whole = (1 << 64) - 1
    return index, operator, int(argument["value"]) & whole, int(argument.get("valueTwo") or 0) & whole


def json_rules(profile: Any, capability_mask: int, machine: str) -> tuple[Rules, int]:
    """The rules and the default action of a profile in Docker's format; ValueError says what is wrong with it."""
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise ValueError("not a seccomp profile: no defaultAction")
    table = syscalls.numbers(machine)
    docker_arch = _ARCHITECTURES[machine][1]
    rules: Rules = {}
    for entry in profile.get("syscalls") or []:
        names = entry.get("names") or ([entry["name"]] if entry.get("name") else [])
        if not all(_applies(entry.get("includes") or {}, capability_mask, docker_arch, every=True)):
            continue
        if any(_applies(entry.get("excludes") or {}, capability_mask, docker_arch, every=False)):
            continue
        action = _action(entry.get("action"), entry.get("errnoRet"))
        tests = tuple(_test(argument) for argument in entry.get("args") or [])
        for name in names:
            if name in table:  # names of other architectures are common in shared profiles
                rules.setdefault(table[name], []).append((tests, action))
    return rules, _action(profile["defaultAction"], profile.get("defaultErrnoRet"))


# -- the compiler ----------------------------------------------------------------------------------------------------

_Instruction = tuple[int, int, int, int]
_Symbolic = tuple[int, int, str, str] | str
"""Code, constant, label when true, label when false ("" is the next instruction); a string alone is a label."""


def _test_code(test: Test, passed: str, failed: str) -> list[_Symbolic]:
    """Jump to *failed* when *test* does not hold, else to *passed*, which stands behind it.  64 bits are two words."""
    index, operator, value, second = test
    offset = _ARGUMENTS + 8 * index
    high, low = value >> 32, value & 0xFFFFFFFF
    load_high: _Symbolic = (_LD, offset + 4, "", "")
    load_low: _Symbolic = (_LD, offset, "", "")
    if operator == "&":
        return [
            load_high, (_AND, high, "", ""), (_JEQ, second >> 32, "", failed),
            load_low, (_AND, low, "", ""), (_JEQ, second & 0xFFFFFFFF, passed, failed),
        ]  # fmt: skip
    if operator == "==":
        return [load_high, (_JEQ, high, "", failed), load_low, (_JEQ, low, passed, failed)]
    if operator == "!=":
        return [load_high, (_JEQ, high, "", passed), load_low, (_JEQ, low, failed, passed)]
    above, below = (passed, failed) if operator in (">", ">=") else (failed, passed)
    compare = _JGE if operator in (">=", "<") else _JGT
    return [load_high, (_JGT, high, above, ""), (_JEQ, high, "", below), load_low, (compare, low, above, below)]


def _resolve(code: list[_Symbolic]) -> list[_Instruction]:
    places: dict[str, int] = {}
    count = 0
    for item in code:
        if isinstance(item, str):
            places[item] = count
        else:
            count += 1
    result: list[_Instruction] = []
    for item in code:
        if isinstance(item, str):
            continue
        operation, constant, true, false = item
        here = len(result) + 1
        distances = [places[label] - here if label else 0 for label in (true, false)]
        if max(distances) > 255:
            raise ValueError("too many argument tests for one system call")
        result.append((operation, distances[0], distances[1], constant))
    return result


def _answer(rules: tuple[Rule, ...], default: int) -> list[_Instruction]:
    """The code that judges one system call: alternatives in order, those with tests first."""
    code: list[_Symbolic] = []
    ordered = sorted(rules, key=lambda rule: not rule[0])
    for number, (tests, action) in enumerate(ordered):
        failed = f"rule {number + 1}"
        for place, test in enumerate(tests):
            passed = f"rule {number} test {place + 1}"
            code += _test_code(test, passed, failed)
            code.append(passed)
        code.append((_RET, action, "", ""))
        code.append(failed)
        if not tests:
            break
    else:
        code.append((_RET, default, "", ""))
    return _resolve(code)


def _segments(rules: Rules, default: int, beyond: int) -> list[tuple[int, tuple[Rule, ...]]]:
    """Runs of neighbouring numbers with the same answer: (first number, rules)."""
    segments: list[tuple[int, tuple[Rule, ...]]] = []

    def add(first: int, answer: tuple[Rule, ...]) -> None:
        if not segments or segments[-1][1] != answer:
            segments.append((first, answer))

    following = 0
    for number in sorted(rules):
        if number != following:
            add(following, (((), default),))
        unconditional = [rule for rule in rules[number] if not rule[0]]
        add(number, (unconditional[0],) if unconditional else tuple(rules[number]))
        following = number + 1
    add(following, (((), beyond),))
    return segments


def compile_rules(rules: Rules, default: int, machine: str) -> bytes:
    """The BPF program; *default* is the action for what no rule covers."""
    beyond = ERRNO | ENOSYS if default & 0xFFFF0000 == ERRNO else default
    segments = _segments(rules, default, beyond)

    def tree(low: int, high: int) -> list[_Instruction]:
        if high - low == 1:
            return _answer(segments[low][1], default)
        middle = (low + high) // 2
        left, right = tree(low, middle), tree(middle, high)
        pivot = segments[middle][0]
        if len(left) <= 255:
            return [(_JGE, len(left), 0, pivot), *left, *right]
        return [(_JGE, 0, 1, pivot), (_JA, 0, 0, len(left)), *left, *right]

    code: list[_Instruction] = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, _ARCHITECTURES[machine][0]),
        (_RET, 0, 0, KILL_PROCESS),
        (_LD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, ERRNO | ENOSYS)]
    code += tree(0, len(segments))
    if len(code) > 4096:  # BPF_MAXINSNS
        raise ValueError(f"the profile needs {len(code)} instructions, the kernel takes 4096")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


_cache: dict[tuple[str, int], bytes] = {}
_CACHE_SIZE = 64


def program(profile: str, capability_mask: int) -> bytes:
    """The compiled *profile* ("default", or JSON text) for a process with these capabilities; ValueError says what is wrong."""
    machine = os.uname().machine
    key = (profile, capability_mask)
    if key not in _cache:
        if profile == "default":
            rules, default = default_rules(capability_mask, machine), ERRNO | EPERM
        else:
            rules, default = json_rules(json.loads(profile), capability_mask, machine)
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        _cache[key] = compile_rules(rules, default, machine)
    return _cache[key]
