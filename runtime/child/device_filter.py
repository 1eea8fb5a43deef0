"""The device filter of cgroup v2: a small eBPF program (BPF_PROG_TYPE_CGROUP_DEVICE) in place of v1's devices controller.

The kernel runs it for every open and mknod of a device node in the group; 1 allows.  The rules are v1's texts ("c 1:3 rwm",
devices.rst of cgroup-v1); each becomes a few comparisons, tried in order:

    r2 = access (1 mknod, 2 read, 4 write)   r3 = type (1 block, 2 char)   r4 = major   r5 = minor      (linux/bpf.h)

The program lives as long as the cgroup that it is attached to.
"""

from __future__ import annotations

import ctypes
import os
import struct

from ...netlib.kernel import syscall as k

_NR_BPF = 321 if os.uname().machine == "x86_64" else 280
_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_LOAD_WORD, _AND, _SHIFT_RIGHT, _MOVE, _MOVE_REGISTER, _JUMP_UNEQUAL, _EXIT = 0x61, 0x54, 0x74, 0xB7, 0xBC, 0x55, 0x95
_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

_Instruction = tuple[int, int, int, int, int]
"""Code, destination, source, offset, constant."""


def _rule(text: str) -> list[_Instruction]:
    kind, numbers, access = text.split()
    major, _, minor = numbers.partition(":")
    allowed = sum(_ACCESS[letter] for letter in set(access))
    tests: list[list[_Instruction]] = []
    if kind != "a":
        tests.append([(_JUMP_UNEQUAL, 3, 0, 0, _KINDS[kind])])
    if allowed != 7:
        tests.append([(_MOVE_REGISTER, 6, 2, 0, 0), (_AND, 6, 0, 0, 7 & ~allowed), (_JUMP_UNEQUAL, 6, 0, 0, 0)])
    for register, number in ((4, major), (5, minor)):
        if number != "*":
            tests.append([(_JUMP_UNEQUAL, register, 0, 0, int(number))])
    code = [instruction for test in tests for instruction in test] + [(_MOVE, 0, 0, 0, 1), (_EXIT, 0, 0, 0, 0)]
    return [
        (operation, target, source, len(code) - place - 1 if operation == _JUMP_UNEQUAL else offset, constant)
        for place, (operation, target, source, offset, constant) in enumerate(code)
    ]


def compile_rules(rules: list[str]) -> bytes:
    """The program that allows what *rules* name, and nothing else."""
    code: list[_Instruction] = [
        (_LOAD_WORD, 2, 1, 0, 0),
        (_MOVE_REGISTER, 3, 2, 0, 0),
        (_AND, 3, 0, 0, 0xFFFF),
        (_SHIFT_RIGHT, 2, 0, 0, 16),
        (_LOAD_WORD, 4, 1, 4, 0),
        (_LOAD_WORD, 5, 1, 8, 0),
    ]
    for text in rules:
        code += _rule(text)
    code += [(_MOVE, 0, 0, 0, 0), (_EXIT, 0, 0, 0, 0)]
    return b"".join(
        struct.pack("<BBhi", operation, source << 4 | target, offset, constant)
        for operation, target, source, offset, constant in code
    )


def load(rules: list[str]) -> int:
    """Load the program: a descriptor.  OSError without CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) of the host."""
    program = compile_rules(rules)
    code = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"MIT")
    attributes = struct.pack(
        "<IIQQ", _TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(code), ctypes.addressof(license_text)
    ).ljust(72, b"\0")  # the rest, up to expected_attach_type, is unused
    return k.syscall(_NR_BPF, _PROG_LOAD, ctypes.c_char_p(attributes), len(attributes), what="bpf")


def guard(directory: str, rules: list[str]) -> None:
    """Let the v2 group at *directory* open no device nodes but those of *rules*."""
    program = load(rules)
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attributes = struct.pack("<IIII", group, program, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
            k.syscall(_NR_BPF, _PROG_ATTACH, ctypes.c_char_p(attributes), len(attributes), what=directory)
        finally:
            os.close(group)
    finally:
        os.close(program)


def supported() -> bool:
    """Whether this process may load such programs."""
    try:
        os.close(load([]))
    except OSError:
        return False
    return True
