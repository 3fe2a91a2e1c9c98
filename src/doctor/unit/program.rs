//! The program that a unit starts, if that is `cutover`: the values of its options.

use std::net::SocketAddr;
use std::time::Duration;

use super::properties::{Command, time_span};
use crate::defaults;

/// `cutover serve`, or `cutover run`, as a unit starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) pid_file: Option<String>,
    pub(crate) drain: Duration,
    /// The time of the canary and the soak together.
    pub(crate) steps: Duration,
    pub(crate) has_control: bool,
}

impl Serving {
    /// The options of a command; `None` if the command does not start `cutover`.
    pub(crate) fn of(command: &Command) -> Option<Serving> {
        let verb = verb_of_cutover(command)?;
        let verb = command.words.get(verb).filter(|verb| ["serve", "run"].contains(&verb.as_str()))?;
        let of_verb = command.words.iter().skip_while(|word| word != &verb).skip(1).take_while(|word| *word != "--");
        let words: Vec<&str> = of_verb.map(String::as_str).collect();
        let time = |name: &str| values(&words, name).last().and_then(|text| time_span(text));
        let mut addresses: Vec<_> = values(&words, "--listen").iter().filter_map(|text| text.parse().ok()).collect();
        if !words.iter().any(|word| *word == "--listen" || word.starts_with("--listen=")) && verb == "serve" {
            addresses.push(SocketAddr::from(([127, 0, 0, 1], 8080)));
        }
        let canary = values(&words, "--canary").into_iter().flat_map(|steps| steps.split(','));
        let canary = canary.filter_map(|step| time_span(step.split_once(':')?.1)).sum::<Duration>();
        Some(Serving {
            addresses,
            pid_file: values(&words, "--pid-file").last().map(|path| (*path).to_owned()),
            drain: time(if verb == "run" { "--stop-timeout" } else { "--drain-timeout" })
                .unwrap_or(defaults::DRAIN_TIMEOUT),
            steps: canary.saturating_add(time("--soak").unwrap_or_default()),
            has_control: !words.contains(&"--no-control"),
        })
    }
}

/// The index of the word after `cutover`, also if a shell or env(1) starts it.
pub(super) fn verb_of_cutover(command: &Command) -> Option<usize> {
    let name = |word: &str| word.trim_matches(['\'', '"']).rsplit('/').next() == Some("cutover");
    command.words.iter().position(|word| name(word)).map(|place| place + 1)
}

/// The values of an option, written `--name value` or `--name=value`.
fn values<'a>(words: &[&'a str], name: &str) -> Vec<&'a str> {
    let beside = words.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1]);
    let joined = words.iter().filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    beside.chain(joined).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(line: &str) -> Option<Serving> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Serving::of(&Command { path: words[0].clone(), words, flags: String::new(), ignores_failure: false })
    }

    #[test]
    fn options_in_both_forms() {
        let found = serving(
            "/usr/local/bin/cutover serve --listen 0.0.0.0:80 --listen=[::]:81 --pid-file /run/x.pid --soak 5s \
             --canary 5%:30s,50%:30s --no-control --drain-timeout=10s /srv",
        );
        let wanted = Serving {
            addresses: ["0.0.0.0:80", "[::]:81"].map(|text| text.parse().expect("an address")).to_vec(),
            pid_file: Some("/run/x.pid".to_owned()),
            drain: Duration::from_secs(10),
            steps: Duration::from_secs(65),
            has_control: false,
        };
        assert_eq!(found, Some(wanted));
    }

    #[test]
    fn defaults_are_those_of_the_program() {
        let found = serving("/usr/bin/env X=1 cutover serve").expect("it is");
        assert_eq!(found.addresses, ["127.0.0.1:8080".parse().expect("an address")]);
        assert_eq!((found.drain, found.steps, found.has_control), (Duration::from_secs(60), Duration::ZERO, true));
    }

    #[test]
    fn what_another_program_is_given_is_not_ours() {
        assert_eq!(serving("/usr/sbin/nginx -g x"), None);
        assert_eq!(serving("/usr/bin/cutover reload"), None);
        let run = serving("/usr/bin/cutover run --stop-timeout 5s -- web --drain-timeout 9s --listen 1.1.1.1:1");
        let run = run.expect("it is");
        assert_eq!((run.drain, run.addresses), (Duration::from_secs(5), vec![]));
    }
}
