use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::Interest;
use tokio::net::TcpListener;

use super::*;
use crate::model::identity::{Generation, Pid};
use crate::model::rollout::Revocability;
use crate::model::share::Share;
use crate::sys::socket::{self, AsyncSocket, Sharing, Stack};

/// Two generations in one process, on one address.
struct Two {
    address: SocketAddr,
    blue: Arc<AsyncSocket>,
    green: TcpListener,
    groups: Table,
}

fn green() -> Generation {
    Generation::FIRST.next()
}

impl Two {
    /// Blue and green after the step Verify: green was started, and listens.
    fn verified() -> Two {
        let first =
            socket::bind("127.0.0.1:0".parse().expect("an address"), Sharing::Group, Stack::Dual).expect("bound");
        let address = first.address;
        let listener = first.listen(128).expect("listens");
        let blue = Arc::new(socket::watch(listener.into(), Interest::READABLE).expect("in a runtime"));
        let own = GroupListener::new(blue.clone()).expect("a socket");
        let mut groups = Table::new(vec![(address, vec![own])], Steering::Allowed);
        groups.begin(green());
        groups.gate(green()).expect("begun");
        let next = socket::bind(address, Sharing::Group, Stack::Dual).expect("bound").listen(128).expect("listens");
        let green = TcpListener::from_std(next).expect("in a runtime");
        let mut two = Two { address, blue, green, groups };
        two.groups
            .verify(super::tests::green(), &two.groups.shown(), Some(two.holders()), None)
            .expect("green listens");
        two
    }

    /// The listener of green, held by this process.
    fn holders(&self) -> Holders {
        let me = BTreeSet::from([Pid::new(std::process::id())]);
        Holders::from([(socket::inode(&self.green).expect("a socket"), me)])
    }

    /// How many of a hundred new connections came to blue, and to green.
    fn spread(&self) -> (usize, usize) {
        // On loopback a connection is in a queue when connect returns.
        let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(self.address).expect("connected")).collect();
        let count = |of: BorrowedFd<'_>| std::iter::from_fn(|| socket::accept_now(of).expect("accepts")).count();
        let spread = (count(self.blue.as_fd()), count(self.green.as_fd()));
        assert_eq!(spread.0 + spread.1, clients.len());
        spread
    }
}

#[tokio::test]
async fn a_share_is_a_share() {
    let mut two = Two::verified();
    assert_eq!(two.spread(), (100, 0));
    two.groups.share(green(), Share::percent(50)).expect("steered");
    let (blue, green) = two.spread();
    assert!(blue > 20 && green > 20, "{blue} and {green}");
}

/// A green that tells where it listens may leave addresses out. Their connections stay where they can be answered.
#[tokio::test]
async fn an_address_on_which_green_does_not_listen_stays_with_blue() {
    let mut two = Two::verified();
    two.groups.steer_back();
    two.groups.begin(green().next());
    two.groups.gate(green().next()).expect("begun");
    let shown = two.groups.shown();
    two.groups.verify(green().next(), &shown, Some(Holders::new()), Some(&[])).expect("blue keeps the address");
    two.groups.share(green().next(), Share::percent(50)).expect("nothing to be steered");
    two.groups.cut_over(green().next(), Revocability::Revocable).expect("nothing to be steered");
    assert_eq!(two.spread(), (100, 0));
    two.groups.cut_over(green().next(), Revocability::Final).expect("nothing to be steered");
    assert_eq!(two.groups.tier(), SteeringMode::Steered);
    assert_eq!(two.spread(), (100, 0));
}

/// Each step runs on its own thread, so a step of the canary may run after the promotion that ended the canary.
#[tokio::test]
async fn a_step_that_was_overtaken_by_the_cut_over_takes_nothing_back() {
    for turn in [Revocability::Revocable, Revocability::Final] {
        let mut two = Two::verified();
        two.groups.cut_over(green(), turn).expect("steered");
        assert_eq!(two.spread(), (0, 100), "{turn:?}");
        two.groups.share(green(), Share::percent(50)).expect_err("it is too late");
        assert_eq!(two.spread(), (0, 100), "{turn:?}");
    }
}

#[tokio::test]
async fn what_is_late_for_its_rollout_changes_nothing() {
    let mut two = Two::verified();
    two.groups.steer_back();
    two.groups.share(green(), Share::ALL).expect_err("it is over");
    two.groups.cut_over(green(), Revocability::Final).expect_err("it is over");
    assert_eq!(two.spread(), (100, 0));
    two.groups.begin(green().next());
    two.groups.share(green(), Share::ALL).expect_err("another one has begun");
    two.groups.gate(green().next()).expect("begun");
    two.groups.share(green(), Share::ALL).expect_err("another one is under way");
    assert_eq!(two.spread(), (100, 0));
}

/// A gate may wait for a disk or for another process, and be done after its rollout was given up.
#[tokio::test]
async fn the_gate_of_a_rollout_that_was_given_up_opens_nothing() {
    let mut two = Two::verified();
    two.groups.steer_back();
    two.groups.gate(green()).expect_err("it is over");
    two.groups.share(green(), Share::ALL).expect_err("nothing was opened");
    two.groups.begin(green().next());
    two.groups.gate(green()).expect_err("another one has begun");
    two.groups.gate(green().next()).expect("begun");
    two.groups.gate(green().next()).expect_err("it was opened before");
    assert_eq!(two.spread(), (100, 0));
}

/// A look at processes may take as long.
#[tokio::test]
async fn a_look_that_comes_late_changes_nothing() {
    let mut two = Two::verified();
    let (shown, green_before) = (two.groups.shown(), two.groups.groups[0].green.clone());
    two.groups.steer_back();
    two.groups.begin(green().next());
    two.groups.gate(green().next()).expect("begun");
    two.groups.green_is_gone();
    two.groups.verify(green(), &shown, Some(two.holders()), None).expect_err("another one is under way");
    two.groups.follow(green(), &shown, Some(two.holders()), Some(two.holders()));
    assert!(!green_before.is_empty() && two.groups.groups[0].green.is_empty());
    assert_eq!(two.groups.green, None);
    assert_eq!(two.groups.groups[0].own.len(), 1);
}

#[tokio::test]
async fn operations_run_in_the_order_of_the_calls_and_none_ends_another() {
    let groups = Groups::new(Two::verified().groups);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let order = Arc::new(Mutex::new(Vec::new()));
    groups.post(move |_| {
        // An error means that the test lets it go.
        let _ = wait.recv();
    });
    let panics = groups.run(|_| panic!("on purpose"));
    for number in 0..10 {
        let order = order.clone();
        groups.post(move |_| order.lock().expect("no panic").push(number));
    }
    // A future that is dropped has begun its operation all the same.
    let dropped = order.clone();
    drop(groups.run(move |_| dropped.lock().expect("no panic").push(10)));
    let last = groups.run(|table| table.addresses());
    assert_eq!(groups.tier(), SteeringMode::Steered, "the summary needs no operation");
    drop(go);
    assert_eq!(panics.await, Err::<(), _>(Stalled::Panicked));
    assert_eq!(last.await, Ok(groups.addresses()));
    assert_eq!(*order.lock().expect("no panic"), (0..=10).collect::<Vec<_>>());
}

/// A caller that has the result of an operation finds it in the summary.
#[tokio::test]
async fn the_summary_is_not_older_than_a_result() {
    let groups = Groups::new(Table::watching(&[], Steering::Off));
    for port in 1..100 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        groups.run(move |table| table.listen_on(&[address])).await.expect("no panic");
        assert_eq!(groups.addresses(), [address]);
    }
}

/// A listener that joins during a look is looked at again.
#[tokio::test]
async fn a_look_is_repeated_when_a_listener_has_joined() {
    let two = Two::verified();
    let (address, groups) = (two.address, Groups::new(two.groups));
    let (looks, joined) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let look = {
        let looks = looks.clone();
        move || {
            // Three listeners join, one during each of the first looks.
            let look = looks.fetch_add(1, Ordering::Relaxed);
            if look < 3 {
                let late =
                    socket::bind(address, Sharing::Group, Stack::Dual).expect("bound").listen(1).expect("listens");
                joined.lock().expect("no panic").push(late);
            }
            look
        }
    };
    let lane = Lane::new(1);
    let seen = groups.look(&lane, look, move |_, shown, look| (shown.of(address).expect("shown").len(), look));
    assert_eq!(seen.await, Ok((5, 3)), "with all listeners, and what the last look has found");
}
