//! Which system calls there are for us. Two filters of the kernel, both for good: what is not on the list of
//! those that serve is answered with ENOSYS, as by a kernel that lacks it, because libraries have a way out
//! for that, and a disk that ends because of a newer libc would do more harm than good. What no library of
//! ours ever does is somebody else's work, and ends the process.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use libc::c_long;
use rustix::process::Pid;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, Le, MaskedEq};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter, apply_filter_all_threads, sock_filter,
};

use super::Needed;
use crate::sys::{CACHESTAT, PR_SET_MDWE};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Memory, threads, time, signals, and files that are open.
const SERVING: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // Clients of sockets that were made before.
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Older names of some of them.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// What making a ring takes; refused again when all are made.
const RINGS: &[c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_register];

/// What the files in granted folders take beside [`SERVING`].
const FILES: &[c_long] = &[
    libc::SYS_fadvise64,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
];

/// What connections to granted hosts take beside [`SERVING`], and sockets.
const NETWORK: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// What NBD takes beside [`SERVING`].
const CLIENTS: &[c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    // What is removed at the end.
    libc::SYS_unlinkat,
    // The end of the --run command.
    libc::SYS_wait4,
    libc::SYS_waitid,
    // What carries out transfers, and large reads.
    CACHESTAT,
    libc::SYS_eventfd2,
    libc::SYS_fstatfs,
    libc::SYS_pipe2,
    libc::SYS_splice,
    // Keys stay out of the swap.
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// What ends the process: new programs, other processes, other privileges, the kernel itself.
const NEVER: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_setgid,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// How memory becomes code.
const CODE: [c_long; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

/// What `fcntl` may do: nothing that sends signals.
const FCNTL: [libc::c_int; 9] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
    libc::F_SETPIPE_SZ,
];

/// What `prctl` may do: give names, and what comes before a further filter.
const PRCTL: [libc::c_int; 3] = [
    libc::PR_SET_NAME,
    libc::PR_SET_VMA,
    libc::PR_SET_NO_NEW_PRIVS,
];

/// For this thread, and those that it starts. The guest is still to be loaded.
pub(super) fn allow_serving_device(needed: &Needed<'_>) -> io::Result<()> {
    let mut rules = loading(needed)?;
    rules.extend(any_of(RINGS).chain(any_of(&[libc::SYS_io_uring_enter])));
    for filter in [never()?, allow(rules)?] {
        apply_filter(&enter_first(filter)?).map_err(io::Error::other)?;
    }
    Ok(())
}

/// [`serving`], and code, until a further filter refuses it.
fn loading(needed: &Needed<'_>) -> io::Result<Rules> {
    let mut rules = serving(needed)?;
    rules.extend(any_of(&CODE).chain(any_of(&[libc::SYS_seccomp])));
    let deny = rule(&[(0, Eq, number(PR_SET_MDWE))])?;
    rules.entry(libc::SYS_prctl).or_default().push(deny);
    // Its own threads (PRIO_PROCESS, 0) may give way to others; what is below 0 is above 19 here.
    let this = rule(&[(0, Eq, 0), (1, Eq, 0), (2, Le, 19)])?;
    rules.insert(libc::SYS_setpriority, vec![this]);
    Ok(rules)
}

/// For this thread, and those that it starts.
pub(super) fn allow_compiling() -> io::Result<()> {
    for filter in [never()?, allow(serving(&Needed::default())?)?] {
        apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// For this thread and those that it starts, or for all: no memory becomes code any more.
pub(super) fn refuse_code(all_threads: bool) -> io::Result<()> {
    let exec = number(libc::PROT_EXEC);
    let mut rules = Rules::new();
    for call in CODE {
        rules.insert(call, vec![rule(&[(2, MaskedEq(exec), exec)])?]);
    }
    let filter = enter_first(filter(rules, SeccompAction::Allow, ENOSYS)?)?;
    let apply = match all_threads {
        true => apply_filter_all_threads,
        false => apply_filter,
    };
    apply(&filter).map_err(io::Error::other)
}

/// For all threads: all rings are made, and no thread is missing.
pub(super) fn refuse_rings() -> io::Result<()> {
    let rules = any_of(RINGS).chain(any_of(&[libc::SYS_clone])).collect();
    let filter = filter(rules, SeccompAction::Allow, ENOSYS)?;
    apply_filter_all_threads(&enter_first(filter)?).map_err(io::Error::other)
}

/// For all threads. The guest is still to be loaded.
pub(super) fn allow_serving_clients(needed: &Needed<'_>, command: Option<Pid>) -> io::Result<()> {
    let mut rules = loading(needed)?;
    rules.extend(any_of(CLIENTS));
    if let Some(command) = command {
        let pid = u64::from(command.as_raw_nonzero().get().cast_unsigned());
        rules.insert(libc::SYS_kill, vec![rule(&[(0, Eq, pid)])?]);
    }
    for filter in [never()?, allow(rules)?] {
        apply_filter_all_threads(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// [`SERVING`], what may be done with some arguments only, and what is `needed` of the outside.
fn serving(needed: &Needed<'_>) -> io::Result<Rules> {
    let mut rules: Rules = any_of(SERVING).collect();
    if !needed.folders.is_empty() {
        rules.extend(any_of(FILES));
    }
    if !needed.ports.is_empty() {
        rules.extend(any_of(NETWORK));
        rules.insert(libc::SYS_socket, tcp_sockets()?);
        // These connect too, which Landlock does not see.
        let fast_open = number(libc::MSG_FASTOPEN);
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2)] {
            rules.insert(call, vec![rule(&[(flags, MaskedEq(fast_open), 0)])?]);
        }
    }
    let exec = number(libc::PROT_EXEC);
    for call in CODE {
        rules.insert(call, vec![rule(&[(2, MaskedEq(exec), 0)])?]);
    }
    // A thread, not a process. Of clone3 the kernel shows no flags: without it, the libc takes this one.
    let thread = number(libc::CLONE_THREAD);
    let only_threads = rule(&[(0, MaskedEq(thread), thread)])?;
    rules.insert(libc::SYS_clone, vec![only_threads]);
    for (call, place, values) in [
        (libc::SYS_fcntl, 1, &FCNTL[..]),
        (libc::SYS_prctl, 0, &PRCTL[..]),
    ] {
        let only = |&value: &libc::c_int| rule(&[(place, Eq, number(value))]);
        rules.insert(call, values.iter().map(only).collect::<io::Result<_>>()?);
    }
    let this_thread = rule(&[(0, Eq, 0)])?;
    rules.insert(libc::SYS_sched_setaffinity, vec![this_thread]);
    // Ourselves, in `abort`.
    let ours = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(&[(0, Eq, ours)])?]);
    // Our own limits, to read.
    let nothing_new = SeccompCondition::new(2, Qword, Eq, 0)
        .and_then(|new| SeccompRule::new(vec![SeccompCondition::new(0, Dword, Eq, 0)?, new]))
        .map_err(io::Error::other)?;
    rules.insert(libc::SYS_prlimit64, vec![nothing_new]);
    Ok(rules)
}

/// Sockets of TCP by its own name: of MPTCP and others that are streams as well, Landlock knows no ports.
fn tcp_sockets() -> io::Result<Vec<SeccompRule>> {
    // Flags lie above the kind.
    let (kind, stream) = (number(0xf), number(libc::SOCK_STREAM));
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6].map(number) {
        for protocol in [0, libc::IPPROTO_TCP].map(number) {
            let all = [
                (0, Eq, family),
                (1, MaskedEq(kind), stream),
                (2, Eq, protocol),
            ];
            rules.push(rule(&all)?);
        }
    }
    Ok(rules)
}

/// Calls that may be made with any arguments.
fn any_of(calls: &[c_long]) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    calls.iter().map(|&call| (call, Vec::new()))
}

const ENOSYS: SeccompAction = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());

fn allow(rules: Rules) -> io::Result<BpfProgram> {
    filter(rules, ENOSYS, SeccompAction::Allow)
}

fn never() -> io::Result<BpfProgram> {
    let rules = any_of(NEVER).collect();
    filter(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn filter(rules: Rules, others: SeccompAction, these: SeccompAction) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(ARCH).map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, others, these, arch).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

/// Lets a filter look first for the one call that requests make. A filter asks for one call after the other, by
/// number, and where the kernel has no memory for what is always allowed, that is done each time.
fn enter_first(mut filter: BpfProgram) -> io::Result<BpfProgram> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const IS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    // The number of the call is at the start of what the kernel shows a filter; the architecture has been checked.
    let number = instruction(LOAD, 0, 0)?;
    let place = filter.iter().position(|is| *is == number);
    let place = place.ok_or_else(|| io::Error::other("a filter that looks at no number"))?;
    let enter = u32::try_from(libc::SYS_io_uring_enter).map_err(io::Error::other)?;
    let first = [
        instruction(IS, enter, 1)?,
        instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0)?,
    ];
    let next = place + 1;
    filter.splice(next..next, first);
    Ok(filter)
}

/// `over` is how many instructions a comparison that fails jumps over.
fn instruction(code: u32, k: u32, over: u8) -> io::Result<sock_filter> {
    Ok(sock_filter {
        code: u16::try_from(code).map_err(io::Error::other)?,
        jt: 0,
        jf: over,
        k,
    })
}

/// Arguments of a call, by place, that must all be so: compared are their lower halves.
fn rule(arguments: &[(u8, seccompiler::SeccompCmpOp, u64)]) -> io::Result<SeccompRule> {
    let conditions = arguments
        .iter()
        .map(|(place, is, value)| SeccompCondition::new(*place, Dword, is.clone(), *value))
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

fn number(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}
