use super::*;
use proptest::prelude::*;

fn set(inodes: &[u64]) -> BTreeSet<Inode> {
    inodes.iter().map(|&i| Inode(i)).collect()
}

fn table(inodes: &[u64]) -> Slots {
    Slots::in_order(inodes.iter().map(|&i| Inode(i)).collect())
}

#[test]
fn a_close_moves_the_last_into_the_hole() {
    let mut slots = table(&[10, 11, 12]);
    slots.close(Inode(10));
    assert_eq!(slots, table(&[12, 11]));
}

#[test]
fn of_an_unknown_order_only_all_or_nothing_is_certain() {
    let mut slots = Slots::members(vec![Inode(1), Inode(2)]);
    assert_eq!(slots.of(&set(&[1, 2])), vec![0, 1]);
    assert!(slots.of(&set(&[1])).is_empty());
    assert_eq!(slots.order(), None);
    slots.listen(Inode(3));
    assert_eq!(slots.of(&set(&[3])), vec![2], "who listens later stands behind them");
    slots.close(Inode(2));
    assert!(slots.of(&set(&[3])).is_empty(), "3 has moved to where 2 was, wherever that is");
    slots.close(Inode(1));
    assert_eq!(slots.of(&set(&[3])), vec![0]);
}

#[test]
fn the_only_green_listener_stays_right_because_the_kernel_falls_back_to_it() {
    assert_eq!(table(&[1, 2]).while_closing(Inode(1), &set(&[2])), vec![1]);
}

#[test]
fn of_as_many_that_come_as_go_one_slot_is_right_in_whichever_order_they_go() {
    let slots = table(&[1, 2, 3, 4, 5, 6]);
    let (blue, green) = (set(&[1, 2, 3]), set(&[4, 5, 6]));
    assert_eq!(slots.throughout(&green, &blue, usize::MAX), vec![3]);
    assert_eq!(slots.throughout(&green, &blue, 1), vec![3, 4]);
    assert_eq!(slots.throughout(&green, &set(&[]), usize::MAX), vec![3, 4, 5], "nobody closes");
    assert_eq!(slots.throughout(&blue, &green, usize::MAX), vec![0, 1, 2], "who stands before them all stays");
    assert!(table(&[1, 2, 3]).throughout(&set(&[3]), &set(&[1, 2]), 1).is_empty());
}

#[test]
fn no_slot_is_right_while_the_only_green_listener_moves_and_another_blue_one_stays() {
    assert!(table(&[1, 2, 3]).while_closing(Inode(1), &set(&[3])).is_empty());
}

#[test]
fn strangers_and_missing_ones_are_named() {
    let mismatch = table(&[1, 2]).compare(&set(&[2, 3])).expect_err("they differ");
    assert_eq!(mismatch, Mismatch { strangers: vec![Inode(3)], missing: vec![Inode(1)] });
}

impl Slots {
    /// As in the kernel: an index outside of the table falls back to the hash over all listeners.
    fn leads_to(&self, slot: u16, wanted: &BTreeSet<Inode>) -> bool {
        match self.table.get(usize::from(slot)) {
            Some(listener) => wanted.contains(listener),
            None => self.table.iter().all(|listener| wanted.contains(listener)),
        }
    }
}

proptest! {
    /// For any number of listeners: blue closes its listeners one by one, and a program that picks among the safe
    /// slots leads to green only, before and after each close. The one exception: a single green listener that the
    /// first close moves has no such slot during that close.
    #[test]
    fn blue_closes_and_no_connection_goes_to_it(blue in 1_u64..12, green in 1_u64..12) {
        let blues: Vec<u64> = (0..blue).collect();
        let greens: Vec<u64> = (100..100 + green).collect();
        let wanted = set(&greens);
        let mut slots = table(&[blues.clone(), greens].concat());
        for (nth, b) in blues.into_iter().enumerate() {
            let safe = slots.while_closing(Inode(b), &wanted);
            prop_assert_eq!(safe.is_empty(), green == 1 && nth == 0 && blue > 1);
            let before = slots.clone();
            slots.close(Inode(b));
            prop_assert!(safe.iter().all(|&slot| before.leads_to(slot, &wanted) && slots.leads_to(slot, &wanted)));
        }
    }

    /// For any order of the slots, known or not, and any order of the closes.
    #[test]
    fn whatever_is_closed_no_connection_goes_astray(
        (table, blue) in (2_usize..14).prop_flat_map(|n| {
            let table = Just((0..n as u64).map(Inode).collect::<Vec<_>>()).prop_shuffle();
            (table, proptest::sample::subsequence((0..n as u64).map(Inode).collect::<Vec<_>>(), 1..n).prop_shuffle())
        }),
        strangers in 0_usize..2,
        closes in 1_usize..14,
        vague in 0_usize..14,
    ) {
        let closing: BTreeSet<Inode> = blue.iter().copied().collect();
        let others = table.iter().copied().filter(|listener| !closing.contains(listener));
        let wanted: BTreeSet<Inode> = others.skip(strangers).collect();
        let vague = if vague < 2 { 0 } else { vague.min(table.len()) };
        let mut believed = table.clone();
        believed[..vague].reverse();
        let right = Slots { table: believed, vague }.throughout(&wanted, &closing, closes);
        let mut slots = Slots::in_order(table);
        for listener in blue.into_iter().take(closes) {
            prop_assert!(right.iter().all(|&slot| slots.leads_to(slot, &wanted)));
            slots.close(listener);
        }
        prop_assert!(right.iter().all(|&slot| slots.leads_to(slot, &wanted)));
    }
}
