//! Single requests; and any sequence of requests, cut anywhere, compared with the known ends of the requests.

use proptest::prelude::*;

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

const MAX: usize = 1 << 20;

/// The pipeline after these pieces, each handed on as it comes.
fn after(pieces: &[&[u8]]) -> Pipeline {
    let mut pipeline = Pipeline::unknown();
    pipeline.follow(MAX);
    for piece in pieces {
        pipeline.received(piece);
    }
    pipeline
}

#[test]
fn one_request_leaves_nothing_and_takes_no_memory() {
    let mut pipeline = after(&[GET]);
    assert!(pipeline.waits(), "its answer");
    pipeline.framed(Framing::Length(0));
    assert!(!pipeline.waits());
    assert_eq!(pipeline.unframed.capacity(), 0);
}

#[test]
fn the_second_of_two_waits_until_it_is_handed_on() {
    let mut pipeline = after(&[&[GET, GET].concat()]);
    pipeline.framed(Framing::Length(0));
    assert!(pipeline.waits());
    assert_eq!(pipeline.partial_head(), None, "it is whole");
    pipeline.framed(Framing::Length(0));
    assert!(!pipeline.waits());
}

#[test]
fn one_byte_is_a_part_and_more_of_it_is_seen() {
    let mut pipeline = after(&[b"G"]);
    let before = pipeline.partial_head().expect("a part");
    pipeline.received(b"ET / HTTP/1.1\r\n\r");
    assert_ne!(pipeline.partial_head().expect("a part still"), before);
    pipeline.received(b"\n");
    assert_eq!(pipeline.partial_head(), None);
}

#[test]
fn empty_lines_are_no_request() {
    let mut pipeline = after(&[b"\r\n\r", b"\n\n", GET]);
    pipeline.framed(Framing::Length(0));
    pipeline.received(b"\r\n");
    assert!(!pipeline.waits());
}

#[test]
fn a_body_is_not_what_waits_and_the_bytes_behind_it_are() {
    let mut pipeline = after(&[b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\n\r\n\r\n"]);
    pipeline.framed(Framing::Length(10));
    assert_eq!((pipeline.waits(), pipeline.body_left()), (false, 6));
    pipeline.received(b"567890");
    assert_eq!((pipeline.waits(), pipeline.body_left()), (false, 0));
    pipeline.received(b"G");
    assert!(pipeline.waits());
}

#[test]
fn chunks_are_followed_to_the_end_of_the_trailers() {
    let mut pipeline = after(&[b"POST / HTTP/1.1\r\n\r\n", b"A;x=\"0\"\r\n0\r\n\r\n67890\r\n"]);
    pipeline.framed(Framing::Chunked);
    assert_eq!((pipeline.waits(), pipeline.body_left()), (false, u64::MAX));
    pipeline.received(b"0\r\nA: b\r\n");
    assert_eq!(pipeline.body_left(), u64::MAX);
    pipeline.received(b"\r\n");
    assert_eq!((pipeline.waits(), pipeline.body_left()), (false, 0));
}

/// As hyper takes them; otherwise a client could make the two disagree about where the next request begins.
#[test]
fn a_line_of_the_trailers_ends_with_both_characters() {
    for trailers in ["\nG\r\n\r\n", "a: b\n\n\r\n\r\n", "\n\nx\r\n\r\n", "a: b\r\nc\n\r\n\r\n"] {
        let whole = format!("0\r\n{trailers}");
        let mut pipeline = after(&[b"POST / HTTP/1.1\r\n\r\n"]);
        pipeline.framed(Framing::Chunked);
        let (all_but_one, last) = whole.as_bytes().split_at(whole.len() - 1);
        pipeline.received(all_but_one);
        assert_eq!((pipeline.waits(), pipeline.body_left()), (false, u64::MAX), "{trailers:?}");
        pipeline.received(last);
        assert_eq!((pipeline.waits(), pipeline.body_left()), (false, 0), "{trailers:?}");
    }
}

/// Whatever a client sends: more than hyper reads ahead is not kept.
#[test]
fn what_is_kept_is_bounded() {
    let mut pipeline = after(&[GET]);
    pipeline.received(&vec![b'x'; MAX]);
    assert!(pipeline.waits() && pipeline.unframed.len() == MAX);
    pipeline.received(b"x");
    assert!(!pipeline.waits());
    for _ in 0..10 {
        pipeline.received(&vec![b'x'; MAX]);
    }
    assert_eq!(pipeline.unframed.capacity(), 0);
}

#[test]
fn a_size_beyond_all_numbers_is_no_panic() {
    let mut pipeline = after(&[b"POST / HTTP/1.1\r\n\r\n", &[b'f'; 40], b"\r\nx\r\n"]);
    pipeline.framed(Framing::Chunked);
    assert_eq!(pipeline.body_left(), u64::MAX);
    let mut pipeline = after(&[b"POST / HTTP/1.1\r\n\r\n", GET]);
    pipeline.framed(Framing::Length(u64::MAX));
    assert_eq!(pipeline.body_left(), u64::MAX - GET.len() as u64);
}

#[test]
fn what_is_not_followed_never_waits() {
    let mut upgraded = after(&[GET, GET]);
    upgraded.forget();
    upgraded.received(GET);
    assert!(!upgraded.waits());
    let mut astray = after(&[b"GET / HTTP/1.1\r\n"]);
    astray.framed(Framing::Length(0));
    astray.received(GET);
    assert!(!astray.waits());
}

/// One request, and how its body is framed.
#[derive(Debug, Clone)]
struct Request {
    bytes: Vec<u8>,
    framing: Framing,
    /// The start of its first line, after the empty lines.
    begin: usize,
    head_end: usize,
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    // Mostly bytes that look like the end of a head or of a body.
    proptest::collection::vec(prop::sample::select(b"\r\n0aG".to_vec()), 0..30)
}

fn chunked(chunks: &[Vec<u8>], extension: &str, trailers: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        body.extend(format!("{:X}{extension}\r\n", chunk.len()).bytes());
        body.extend(chunk);
        body.extend(b"\r\n");
    }
    body.extend(format!("0{extension}\r\n{trailers}\r\n").bytes());
    body
}

fn framed_body() -> impl Strategy<Value = (Framing, Vec<u8>)> {
    let chunks = (
        proptest::collection::vec(body(), 0..4),
        prop::sample::select(vec!["", ";a", " ;a=\"0\""]),
        prop::sample::select(vec!["", "a: b\r\n", "a: b\r\nc:\r\n"]),
    );
    prop_oneof![
        2 => Just((Framing::Length(0), Vec::new())),
        1 => body().prop_map(|body| (Framing::Length(body.len() as u64), body)),
        1 => chunks.prop_map(|(c, extension, trailers)| (Framing::Chunked, chunked(&c, extension, trailers))),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let lines = prop::sample::select(vec!["\r\n", "\n"]);
    let empty = prop::sample::select(vec!["", "\r\n", "\n", "\r\n\r\n"]);
    (empty, proptest::collection::vec(lines, 2..6), framed_body()).prop_map(|(empty, ends, (framing, body))| {
        let mut bytes = empty.as_bytes().to_vec();
        let (last, ends) = ends.split_last().expect("two at least");
        for (nth, end) in ends.iter().enumerate() {
            let line = if nth == 0 { "GET /?\r HTTP/1.1" } else { "name: \r value" };
            bytes.extend(format!("{line}{end}").bytes());
        }
        bytes.extend(last.bytes());
        let head_end = bytes.len();
        bytes.extend(body);
        Request { bytes, framing, begin: empty.len(), head_end }
    })
}

proptest! {
    /// For any requests, any pieces, and any moments at which hyper hands a request on.
    #[test]
    fn what_waits_is_known_for_any_requests_in_any_pieces(
        requests in proptest::collection::vec(request(), 1..6),
        pieces in proptest::collection::vec((1_usize..60, any::<bool>()), 1..80),
    ) {
        let all: Vec<u8> = requests.iter().flat_map(|request| request.bytes.clone()).collect();
        let starts: Vec<usize> = requests.iter().scan(0, |at, request| {
            *at += request.bytes.len();
            Some(*at - request.bytes.len())
        }).collect();
        let end = |nth: usize| starts[nth] + requests[nth].bytes.len();
        let mut pipeline = after(&[]);
        let (mut came, mut handed_on) = (0_usize, 0);
        // At the end everything is received, and everything is handed on.
        for (length, hands_on) in pieces.into_iter().chain([(usize::MAX, true)]) {
            let piece = &all[came..came.saturating_add(length).min(all.len())];
            came += piece.len();
            if !piece.is_empty() {
                pipeline.received(piece);
            }
            loop {
                let next = requests.get(handed_on).map(|request| (request, starts[handed_on]));
                let waits = next.is_some_and(|(request, start)| came > start + request.begin);
                let has_head = next.is_some_and(|(request, start)| came >= start + request.head_end);
                prop_assert_eq!(pipeline.waits(), waits);
                prop_assert_eq!(pipeline.partial_head().is_some(), waits && !has_head);
                let left = match handed_on.checked_sub(1) {
                    Some(last) if came < end(last) => match requests[last].framing {
                        Framing::Length(_) => (end(last) - came) as u64,
                        Framing::Chunked => u64::MAX,
                    },
                    Some(_) | None => 0,
                };
                prop_assert_eq!(pipeline.body_left(), left);
                let (Some((request, _)), true, true) = (next, has_head, hands_on) else { break };
                pipeline.framed(request.framing);
                handed_on += 1;
            }
        }
        prop_assert_eq!(handed_on, requests.len());
        prop_assert_eq!(pipeline.unframed.capacity(), 0);
    }
}
