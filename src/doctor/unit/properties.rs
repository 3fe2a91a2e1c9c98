//! Parsers for the output of `systemctl show` and `systemctl cat`.

use std::collections::BTreeMap;
use std::time::Duration;

/// The properties of a unit, as `systemctl show` writes them. A property such as `ExecReload=` may occur more than
/// once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Properties(BTreeMap<String, Vec<String>>);

/// A setting that starts a program, such as `ExecStart=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) path: String,
    /// The program's name first. An argument with spaces is several words here: systemctl shows no quotes.
    pub(crate) words: Vec<String>,
    /// The prefixes of systemd.service(5), as names: `-` is `ignore-failure`, `!` is `no-setuid`, and so on.
    pub(crate) flags: String,
    pub(crate) ignores_failure: bool,
}

impl Properties {
    pub(crate) fn parse(text: &str) -> Properties {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            all.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Properties(all)
    }

    /// The value; empty if there is none.
    pub(crate) fn one(&self, key: &str) -> &str {
        self.shown(key).unwrap_or_default()
    }

    /// The value; `None` if this version does not know the property.
    pub(crate) fn shown(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.first().map(String::as_str)
    }

    pub(crate) fn is(&self, key: &str, value: &str) -> bool {
        self.one(key) == value
    }

    pub(crate) fn words(&self, key: &str) -> impl Iterator<Item = &str> {
        self.one(key).split_whitespace()
    }

    pub(crate) fn time(&self, key: &str) -> Option<Duration> {
        time_span(self.one(key))
    }

    pub(crate) fn commands(&self, key: &str) -> Vec<Command> {
        self.0.get(key).into_iter().flatten().filter_map(|value| command(value)).collect()
    }
}

/// `{ path=/bin/kill ; argv[]=/bin/kill -HUP $MAINPID ; ignore_errors=no ; start_time=… }`
fn command(shown: &str) -> Option<Command> {
    let (_, rest) = shown.split_once("path=")?;
    let (path, rest) = rest.split_once(" ; argv[]=")?;
    let field = |name: &str| rest.rsplit_once(name).map(|(before, value)| (before, value.split(" ; ").next()));
    let (before, value) = field(" ; ignore_errors=").or_else(|| field(" ; flags="))?;
    let value = value.unwrap_or_default();
    Some(Command {
        path: path.to_owned(),
        words: before.split_whitespace().map(str::to_owned).collect(),
        ignores_failure: value == "yes" || value.contains("ignore-failure"),
        flags: value.to_owned(),
    })
}

/// Parses a time as systemd.time(7) writes it (`1min 30s`, `infinity`), and as `cutover serve` takes it (`1m 30s`); a
/// number without a unit is in seconds. `infinity` is the longest duration.
pub(crate) fn time_span(text: &str) -> Option<Duration> {
    const DAY: f64 = 86_400.0;
    if text == "infinity" {
        return Some(Duration::MAX);
    }
    let mut sum = None;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "ns" | "nsec" => 1e-9,
            "us" | "usec" => 1e-6,
            "ms" | "msec" => 1e-3,
            "" | "s" | "sec" | "second" | "seconds" | "secs" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => DAY,
            "w" | "week" | "weeks" => 7.0 * DAY,
            "M" | "month" | "months" => 30.44 * DAY,
            "y" | "year" | "years" => 365.25 * DAY,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        sum = Some(sum.unwrap_or(Duration::ZERO).saturating_add(part));
        rest = after.trim_start();
    }
    sum
}

/// The number that a version begins with: `257` of `257.13-1`, and of `257~rc1`.
pub(crate) fn leading_number(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The last value of each setting in `[Service]`, from the output of `systemctl cat`.
pub(crate) fn written(text: &str) -> BTreeMap<String, String> {
    let mut service = false;
    let mut last = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if line.starts_with('[') {
            service = line == "[Service]";
        } else if let (true, Some((key, value))) = (service, line.split_once('=')) {
            last.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Properties {
        pub(crate) fn set(&mut self, key: &str, value: &str) {
            self.0.insert(key.to_owned(), vec![value.to_owned()]);
        }

        pub(crate) fn remove(&mut self, key: &str) {
            self.0.remove(key);
        }
    }

    #[test]
    fn a_command_of_either_form() {
        let text = "ExecReload={ path=/bin/sh ; argv[]=/bin/sh -c a ; b ; ignore_errors=yes ; pid=0 ; status=0/0 }\n\
            ExecReload={ path=/bin/true ; argv[]=/bin/true ; ignore_errors=no ; pid=0 ; status=0/0 }\n\
            ExecStartEx={ path=/x ; argv[]=x ; flags=no-setuid ignore-failure ; pid=0 ; status=0/0 }\n";
        let properties = Properties::parse(text);
        let reload = properties.commands("ExecReload");
        assert_eq!(reload.len(), 2);
        assert_eq!((reload[0].words.join(" ").as_str(), reload[0].ignores_failure), ("/bin/sh -c a ; b", true));
        assert_eq!((reload[1].path.as_str(), reload[1].ignores_failure), ("/bin/true", false));
        let start = &properties.commands("ExecStartEx")[0];
        assert_eq!((start.flags.as_str(), start.ignores_failure), ("no-setuid ignore-failure", true));
        assert_eq!(properties.commands("ExecStop"), []);
    }

    #[test]
    fn times_of_systemd_and_of_the_program() {
        for (text, seconds) in [
            ("1min 30s", 90.0),
            ("500ms", 0.5),
            ("1min 1.500s", 61.5),
            ("75", 75.0),
            ("1h 5min", 3900.0),
            ("1d 2h", 93_600.0),
            ("1m30s", 90.0),
            ("0", 0.0),
        ] {
            assert_eq!(time_span(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        assert_eq!(time_span("infinity"), Some(Duration::MAX));
        for text in ["", "[not set]", "5 parsecs", "s"] {
            assert_eq!(time_span(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_word_in_the_files_counts() {
        let text = "# /etc/systemd/system/x.service\n[Unit]\nType=no\n[Service]\nType=simple\n# Type=x\n\
            WatchdogSec = 2\n\n# /etc/systemd/system/x.service.d/a.conf\n[Service]\nType=notify-reload\n[Install]\nA=b\n";
        let wanted = [("Type", "notify-reload"), ("WatchdogSec", "2")];
        assert_eq!(written(text), wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn versions_of_distributions() {
        let versions = ["252", "257.13-1", "257~rc1", "253-rc2", "v1"];
        assert_eq!(versions.map(leading_number), [Some(252), Some(257), Some(257), Some(253), None]);
    }
}
