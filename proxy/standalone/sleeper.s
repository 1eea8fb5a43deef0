# What stands in docker-proxy's place while the shared forwarder does its work: the source of the bytes in sleeper.py, which
# says what it is for.  x86-64 Linux, GNU as; tests/unit/test_proxy_sleeper.py assembles it and compares.
#
# No stack frame, no data, no library: a set, two pollfd and a byte that is read live on the stack that execve gave.
# Chosen for size where it is longer to read: push and pop for a small number, or for -1.

        .intel_syntax noprefix
        .globl  _start

        .set    LISTENER, 4             # held, and never touched: clients queue on it
        .set    CONTROL, 5              # the connection to the forwarder
        .set    TURN, 6                 # the lock file

        .set    SIGINT_TERM, 1 << 1 | 1 << 14           # sigset_t: signal n is bit n - 1; 2 and 15
        .set    POLLIN, 1
        .set    LOCK_EX, 2
        .set    SHUT_WR, 1

        .set    SYS_read, 0
        .set    SYS_poll, 7
        .set    SYS_shutdown, 48
        .set    SYS_execve, 59
        .set    SYS_flock, 73
        .set    SYS_exit_group, 231
        .set    SYS_signalfd4, 289

        .text
_start: mov     rbx, rsp                # argc, argv, NULL, environment: for execve
        push    SIGINT_TERM             # both are blocked by whoever executed this
        mov     rsi, rsp
        or      edi, -1                 # signalfd4(-1, set, 8, 0)
        push    8
        pop     rdx
        xor     r10d, r10d
        mov     eax, SYS_signalfd4
        syscall

        push    CONTROL                 # struct pollfd {int fd; short events, revents}: [rsp+8], events none: its end alone
        push    rax                     # and [rsp]: the signals
        mov     byte ptr [rsp + 4], POLLIN

wait:   mov     rdi, rsp                # poll(rsp, 2, -1)
        push    2
        pop     rsi
        or      edx, -1
        push    SYS_poll
        pop     rax
        syscall
        cmp     word ptr [rsp + 6], 0   # a signal: leave in good order
        jne     leave
        cmp     word ptr [rsp + 14], 0  # neither: poll was disturbed
        je      wait

        push    TURN                    # the forwarder is gone: one process at a time goes back to it
        pop     rdi
        push    LOCK_EX
        pop     rsi
        push    SYS_flock
        pop     rax
        syscall
        mov     rdi, [rbx + 8]          # execve(argv[0], argv, environment)
        lea     rsi, [rbx + 8]
        mov     rax, [rbx]
        lea     rdx, [rbx + rax * 8 + 16]
        push    SYS_execve
        pop     rax
        syscall
        push    1                       # it can not be executed: status 1
        pop     rdi
        jmp     exit

leave:  push    CONTROL                 # say that we leave, and wait until the port is free
        pop     rdi
        push    SHUT_WR
        pop     rsi
        push    SYS_shutdown
        pop     rax
        syscall
        mov     rsi, rsp                # read(5, rsp, 1): its end, or SO_RCVTIMEO
        push    1
        pop     rdx
        xor     eax, eax
        syscall
        xor     edi, edi                # status 0

exit:   mov     eax, SYS_exit_group
        syscall
