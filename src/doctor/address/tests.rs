use super::*;
use crate::doctor::Level;

const HERE: &str = "127.0.0.1:8080";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn listener(address: &str, pid: u32, parent: u32) -> Listener {
    let process = Process { pid: Pid::new(pid), name: "web".to_owned(), parent: Pid::new(parent), uid: 33 };
    Listener { address: at(address), uid: 33, process: Some(process) }
}

fn judged(listeners: &[Listener], instances: &Instances) -> Vec<(Level, String)> {
    let (findings, _) = judge(at(HERE), listeners, instances);
    assert!(findings.iter().all(|f| f.subject == HERE));
    findings.into_iter().map(|f| (f.level, f.what)).collect()
}

fn levels(found: &[(Level, String)]) -> Vec<Level> {
    found.iter().map(|(level, _)| *level).collect()
}

#[test]
fn nobody_is_fine_and_so_is_an_instance_in_the_middle_of_a_rollout() {
    assert_eq!(levels(&judged(&[], &Instances::default())), [Level::Ok]);
    let rollout = [listener(HERE, 10, 1), listener(HERE, 11, 10), listener(HERE, 11, 10)];
    for live in [10, 11] {
        let found = judged(&rollout, &Instances::known(&[live], &[]));
        assert_eq!(levels(&found), [Level::Ok], "{found:?}");
        assert!(found[0].1.contains(&format!("pid {live}")), "{found:?}");
    }
    // The new generation lives, and has taken the control socket; the old one, its parent, still has its listener.
    let found = judged(&[listener(HERE, 11, 10)], &Instances::known(&[10], &[]));
    assert_eq!(levels(&found), [Level::Ok], "{found:?}");
}

#[test]
fn a_stranger_is_named_whether_or_not_an_instance_is_there() {
    let stranger = listener(HERE, 99, 1);
    let alone = judged(std::slice::from_ref(&stranger), &Instances::default());
    assert_eq!(levels(&alone), [Level::Problem]);
    assert!(alone[0].1.contains("pid 99, uid 33"), "{alone:?}");
    let joined = judged(&[listener(HERE, 10, 1), stranger], &Instances::known(&[10], &[]));
    assert_eq!(levels(&joined), [Level::Ok, Level::Problem]);
    assert!(joined[1].1.contains("joined the group of pid 10"), "{joined:?}");
}

#[test]
fn who_may_not_be_looked_at_is_known_by_its_uid() {
    let hidden = Listener { process: None, ..listener(HERE, 0, 0) };
    let found = judged(std::slice::from_ref(&hidden), &Instances::default());
    assert_eq!(levels(&found), [Level::Problem]);
    assert!(found[0].1.contains("uid 33"), "{found:?}");
    let found = judged(&[hidden], &Instances::known(&[], &[33]));
    assert_eq!(levels(&found), [Level::Note], "that user has instances");
}

#[test]
fn a_user_that_was_dropped_cannot_bind_again() {
    let dropped = Listener { uid: 0, ..listener(HERE, 10, 1) };
    let found = judged(&[dropped], &Instances::known(&[10], &[]));
    assert_eq!(levels(&found), [Level::Ok, Level::Problem]);
    assert!(found[1].1.contains("as uid 0 and is uid 33 now"), "{found:?}");
}

#[test]
fn overlapping_addresses_are_a_note_unless_they_are_its_own() {
    let found = judged(&[listener("0.0.0.0:8080", 99, 1)], &Instances::default());
    assert_eq!(levels(&found), [Level::Ok, Level::Note]);
    assert!(found[1].1.contains("0.0.0.0:8080"), "{found:?}");
    let own = [listener(HERE, 10, 1), listener("0.0.0.0:8080", 10, 1)];
    assert_eq!(levels(&judged(&own, &Instances::known(&[10], &[]))), [Level::Ok]);
}

/// A reload may be under way: the old generation closes its listener between the two looks.
#[test]
fn a_listener_that_is_closed_while_its_owner_is_looked_up_is_no_stranger() {
    let bind = |address: SocketAddr| {
        socket::bind(address, Sharing::Group, Stack::Single).expect("bound").listen(1).expect("listens")
    };
    let stays = bind(at("127.0.0.1:0"));
    let address = stays.local_addr().expect("bound");
    let goes = bind(address);
    let closes = |wanted: &BTreeSet<Inode>| {
        assert_eq!(wanted.len(), 2);
        drop(goes);
        socket_owner::owners(wanted)
    };
    let found = listeners_with(address, closes).expect("sock_diag");
    let pids: Vec<_> = found.iter().map(|listener| listener.process.as_ref().map(|process| process.pid)).collect();
    assert_eq!(pids, [Some(Pid::new(std::process::id()))]);
    // A listener that stays, and whose owner cannot be seen, is reported.
    let hidden = listeners_with(address, |_| BTreeMap::new()).expect("sock_diag");
    assert!(matches!(&hidden[..], [Listener { process: None, .. }]), "{hidden:?}");
}
