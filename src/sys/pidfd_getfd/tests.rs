use std::io::{BufRead, BufReader, Lines, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::super::reexec::{reexec, role, run_again};
use super::super::socket::{Sharing, Stack};
use super::super::steering;
use super::*;
use crate::model::steering::Program;

/// A process that has two listeners in one group, and the address and the inodes that the process prints.
struct Holder {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
    inodes: [Inode; 2],
}

impl Holder {
    fn start(mut command: Command) -> Holder {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawns");
        let mut says = BufReader::new(child.stdout.take().expect("piped")).lines();
        // The name of the test can stand before the line's text.
        let mut said = says.by_ref().map(|line| line.expect("text"));
        let said = said.find_map(|line| Some(line.split_once("holds ")?.1.to_owned())).expect("it listens");
        let mut words = said.split(' ');
        let address = words.next().and_then(|word| word.parse().ok()).expect("an address");
        let mut inode = || Inode(words.next().and_then(|word| word.parse().ok()).expect("an inode"));
        Holder { child, says, address, inodes: [inode(), inode()] }
    }

    fn pid(&self) -> Pid {
        Pid::new(self.child.id())
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        let said: Vec<String> = self.says.map_while(Result::ok).collect();
        assert!(self.child.wait().expect("ours").success(), "{said:?}");
    }
}

/// Listens until stdin ends.
fn hold_two_listeners() {
    let first = socket::bind(([127, 0, 0, 1], 0).into(), Sharing::Alone, Stack::Single).expect("a free port");
    let address = first.address;
    let first = first.listen(16).expect("listens");
    let second = socket::bind(address, Sharing::Group, Stack::Single).expect("a group").listen(16).expect("listens");
    let inode = |listener: &TcpListener| socket::inode(listener).expect("fstat");
    println!("holds {address} {} {}", inode(&first).0, inode(&second).0);
    std::io::stdin().read_to_end(&mut Vec::new()).expect("its end");
}

#[test]
fn what_is_set_on_copies_is_set_on_the_listeners_of_the_other_process() {
    if role().is_some() {
        return hold_two_listeners();
    }
    let holder = Holder::start(reexec(what_is_set_on_copies_is_set_on_the_listeners_of_the_other_process, "holder"));
    // A process that has no such socket, and a process that does not exist, are skipped.
    let asked = || [Pid::new(std::process::id()), Pid::new(u32::MAX), holder.pid()];
    let copies = holder.inodes.map(|inode| copy(asked(), inode).expect("a copy").0);
    for (copy, inode) in copies.iter().zip(holder.inodes) {
        assert_eq!(socket::inode(copy).expect("fstat"), inode);
        assert!(rustix::io::fcntl_getfd(copy).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
    }
    for slot in [0, 1, 0] {
        // Attached through the copy of the other listener: the program applies to the whole group.
        let program = Program::one_of(&[slot]).expect("one");
        steering::attach(&copies[usize::from(1 - slot)], &program).expect("attached");
        for _ in 0..8 {
            let _client = TcpStream::connect(holder.address).expect("connected");
            let got = copies.each_ref().map(|copy| socket::accept_now(copy.as_fd()).expect("accept").is_some());
            assert_eq!(got, [slot == 0, slot == 1]);
        }
    }
    holder.end();
}

/// The result does not depend on what is open at that place by now, or in which process: it is this socket or none.
#[test]
fn where_a_copy_was_had_another_one_is_had_as_long_as_it_is_there() {
    if role().is_some() {
        return hold_two_listeners();
    }
    let holder =
        Holder::start(reexec(where_a_copy_was_had_another_one_is_had_as_long_as_it_is_there, "another-holder"));
    let [first, second] = holder.inodes;
    let (_, place) = copy([holder.pid()], first).expect("a copy");
    let copied = copy_again(place, first).expect("still there");
    assert_eq!(socket::inode(copied).expect("fstat"), first);
    assert!(copy_again(place, second).is_none(), "another socket");
    holder.end();
    assert!(copy_again(place, first).is_none(), "nobody has it");
}

#[test]
fn a_socket_that_nobody_has_is_not_found_and_named() {
    let ours = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let inode = socket::inode(&ours).expect("fstat");
    drop(ours);
    let own = Pid::new(std::process::id());
    for holders in [vec![], vec![own], vec![Pid::new(u32::MAX), Pid::new(0)]] {
        let error = copy(holders, inode).expect_err("nobody has it");
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(&inode.to_string()), "{error}");
    }
}

#[test]
fn it_is_allowed_at_all_unless_a_filter_refuses_it() {
    try_copy().expect("no filter");
    let ours = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let inode = socket::inode(&ours).expect("fstat");
    // A filter belongs to a thread, and ends with the thread.
    let refused = std::thread::spawn(move || {
        refuse_pidfd_getfd();
        let own = Pid::new(std::process::id());
        // The other holders lack the socket, which tells less than the refusal, whether they come before or after it.
        [try_copy().map(drop), copy([Pid::new(u32::MAX), own, Pid::new(0)], inode).map(drop)]
    });
    for refused in refused.join().expect("does not panic") {
        let error = refused.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("pidfd_getfd"), "{error}");
    }
    try_copy().expect("no filter in this thread");
}

/// Refuses pidfd_getfd(2) in this thread, as a container does (seccomp(2)).
#[allow(unsafe_code, reason = "seccomp(2) has no safe interface in rustix")]
fn refuse_pidfd_getfd() {
    let i = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_pidfd_getfd).expect("a small number");
    // Load the number of the call. Return an error if it is pidfd_getfd, and allow any other call.
    let mut filter = [
        i(0x20, 0, 0, 0),
        i(0x15, 0, 1, number),
        i(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        i(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    rustix::thread::set_no_new_privs(true).expect("allowed");
    // SAFETY: the pointer leads to a program whose instructions live until the call returns.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}

/// The uid of the user "nobody", to which no process that matters belongs.
const NOBODY: u32 = 65534;

#[test]
fn a_process_of_another_user_gives_none() {
    if role().is_none() {
        // A process that gives up its uid cannot be traced any more, so it must not be the process of all tests.
        return run_again(a_process_of_another_user_gives_none, "stranger");
    }
    let first = Pid::new(1);
    let ours = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let inode = socket::inode(&ours).expect("fstat");
    if rustix::process::getuid().is_root() {
        rustix::thread::set_thread_res_uid(
            rustix::process::Uid::from_raw(NOBODY),
            rustix::process::Uid::from_raw(NOBODY),
            rustix::process::Uid::from_raw(NOBODY),
        )
        .expect("root may");
    } else if socket_owner::sockets_of(first).is_ok() {
        return eprintln!(
            "skipped: a_process_of_another_user_gives_none needs root, or a first process of another user"
        );
    }
    let error = copy([first], inode).expect_err("another user's");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    for named in [inode.to_string(), "pid 1".to_owned()] {
        assert!(error.to_string().contains(&named), "{error}");
    }
}
