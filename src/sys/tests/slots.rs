//! The slot model against the real kernel: random sequences of listen and close. After each step a connection must come
//! to just the listener that the model predicts.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};

use proptest::prelude::*;

use crate::model::identity::Inode;
use crate::model::slots::Slots;
use crate::model::steering::Program;
use crate::sys::socket::{self, Sharing, Stack};
use crate::sys::{sock_diag, steering};

#[derive(Debug, Clone)]
enum Step {
    Listen,
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => Just(Step::Listen), 2 => any::<usize>().prop_map(Step::Close)];
    proptest::collection::vec(step, 1..25)
}

struct Kernel {
    address: SocketAddr,
    listeners: Vec<(Inode, TcpListener)>,
    slots: Slots,
}

impl Kernel {
    fn new(address: &str) -> Kernel {
        let first = socket::bind(address.parse().expect("an address"), Sharing::Alone, Stack::Dual).expect("bound");
        let address = first.address;
        let first = first.listen(128).expect("listens");
        let inode = socket::inode(&first).expect("fstat");
        Kernel { address, listeners: vec![(inode, first)], slots: Slots::in_order(vec![inode]) }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Listen => {
                let bound = socket::bind(self.address, Sharing::Group, Stack::Dual).expect("bound");
                let listener = bound.listen(128).expect("listens");
                let inode = socket::inode(&listener).expect("fstat");
                self.slots.listen(inode);
                self.listeners.push((inode, listener));
            }
            // The last listener stays: a group without listeners is no group.
            Step::Close(_) if self.listeners.len() == 1 => {}
            Step::Close(which) => {
                let (inode, listener) = self.listeners.swap_remove(which % self.listeners.len());
                self.close(inode, listener);
            }
        }
    }

    /// Another test may just have forked this process: close(2) does not close a listener that a forked process has
    /// too.
    fn close(&mut self, inode: Inode, listener: TcpListener) {
        socket::stop_listening(listener).expect("it listens");
        self.slots.close(inode);
    }

    /// Connects once, and returns the listener that got the connection.
    fn connect(&self) -> Inode {
        let to = SocketAddr::new(
            if self.address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() },
            self.address.port(),
        );
        let _client = TcpStream::connect(to).expect("connected");
        // On loopback the connection is in a queue when connect returns.
        let got = self.listeners.iter().filter(|(_, l)| socket::accept_now(l).expect("accept").is_some());
        let got: Vec<Inode> = got.map(|(inode, _)| *inode).collect();
        assert_eq!(got.len(), 1, "{got:?}");
        got[0]
    }

    fn steer(&self, slots: &[u16]) {
        steering::attach(&self.listeners[0].1, &Program::one_of(slots).expect("some")).expect("attached");
    }

    fn check(&self) {
        let all: BTreeSet<Inode> = self.listeners.iter().map(|(inode, _)| *inode).collect();
        let shown = sock_diag::group(self.address).expect("sock_diag").into_keys().collect();
        assert_eq!(self.slots.compare(&shown), Ok(()));
        for &inode in &all {
            let slots = self.slots.of(&BTreeSet::from([inode]));
            assert_eq!(slots.len(), 1);
            self.steer(&slots);
            assert_eq!(self.connect(), inode, "slot {slots:?} of {:?}", self.slots);
        }
        // Every second listener, picked at random by one program; then a slot out of range, where any listener will do.
        let some: BTreeSet<Inode> = all.iter().copied().step_by(2).collect();
        self.steer(&self.slots.of(&some));
        for _ in 0..4 {
            assert!(some.contains(&self.connect()));
        }
        self.steer(&[999]);
        assert!(all.contains(&self.connect()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_model_is_what_the_kernel_does(steps in steps(), v6: bool) {
        let mut kernel = Kernel::new(if v6 { "[::]:0" } else { "127.0.0.1:0" });
        kernel.check();
        for step in &steps {
            kernel.step(step);
            kernel.check();
        }
    }

    /// While blue closes listener by listener, with the program that the model calls right throughout, no connection
    /// comes to blue: neither before a close nor between the close and the next program.
    #[test]
    fn no_connection_comes_to_a_listener_that_is_about_to_close(blue in 1_usize..6, green in 2_usize..6) {
        let mut kernel = Kernel::new("127.0.0.1:0");
        (1..blue + green).for_each(|_| kernel.step(&Step::Listen));
        let wanted: BTreeSet<Inode> = kernel.listeners[blue..].iter().map(|(inode, _)| *inode).collect();
        for _ in 0..blue {
            let safe = kernel.slots.while_closing(kernel.listeners[0].0, &wanted);
            prop_assert!(!safe.is_empty());
            kernel.steer(&safe);
            (0..8).for_each(|_| assert!(wanted.contains(&kernel.connect())));
            let (inode, listener) = kernel.listeners.remove(0);
            kernel.close(inode, listener);
            (0..8).for_each(|_| assert!(wanted.contains(&kernel.connect())));
        }
    }
}
