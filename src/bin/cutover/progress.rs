//! The display of a reload that is followed: a line that changes on a terminal, plain lines, or JSON.

use std::io::IsTerminal as _;
use std::mem::discriminant;
use std::time::{Duration, Instant};

use cutover::Phase;
use cutover::control::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::exit::{complain, say};
use crate::format;

/// The minimum time between two plain lines for a count that changes.
const RECOUNT: Duration = Duration::from_secs(10);

/// The form in which the progress is shown.
pub(crate) enum Display {
    /// One line on stderr that names the current step and its time.
    Terminal(Option<Moving>),
    /// A line on stdout for each transition.
    Plain(Option<(Step, Instant)>),
    /// The JSON lines of the control socket, passed on to stdout.
    Json,
}

/// The line on a terminal, while there is one.
pub(crate) struct Moving {
    bar: ProgressBar,
    step: Step,
    since: Instant,
}

impl Display {
    pub(crate) fn new(json: bool) -> Display {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match (json, std::io::stderr().is_terminal() && !is_dumb) {
            (true, _) => Display::Json,
            (false, true) => Display::Terminal(None),
            (false, false) => Display::Plain(None),
        }
    }

    /// Whether [`tick`](Display::tick) does anything.
    pub(crate) fn is_moving(&self) -> bool {
        match self {
            Display::Terminal(moving) => moving.is_some(),
            Display::Plain(_) | Display::Json => false,
        }
    }

    /// Shows an event of the reload; `line` is the line that the instance has sent.
    pub(crate) fn show(&mut self, progress: &Progress, line: &str) {
        match self {
            Display::Json => say(line),
            Display::Plain(told) => {
                if let Some(step) = Step::of(progress)
                    && told.as_ref().is_none_or(|(before, at)| step.is_news_after(before, at.elapsed()))
                {
                    say(step.plain());
                    *told = Some((step, Instant::now()));
                }
            }
            Display::Terminal(_) => {
                if let Some(step) = Step::of(progress) {
                    self.go_on_to(step);
                }
            }
        }
    }

    /// Shows that the outcome is known and the old generation is not gone yet. Only a terminal shows this, where the
    /// line can be removed again.
    pub(crate) fn wait_for_the_old_one(&mut self) {
        self.go_on_to(Step::Until("waiting for the old generation".to_owned()));
    }

    fn go_on_to(&mut self, step: Step) {
        if let Display::Terminal(moving) = self
            && moving.as_ref().is_none_or(|moving| moving.step != step)
        {
            let bar = moving.take().map_or_else(bar, |moving| moving.bar);
            *moving = Some(Moving { bar, step, since: Instant::now() });
            self.tick();
        }
    }

    /// Updates the time in the line on a terminal.
    pub(crate) fn tick(&mut self) {
        if let Display::Terminal(Some(Moving { bar, step, since })) = self {
            bar.set_message(step.moving(since.elapsed()));
            bar.tick();
        }
    }

    /// Writes a note to stderr, beside the line that changes.
    pub(crate) fn note(&self, text: &str) {
        match self {
            Display::Terminal(Some(moving)) => moving.bar.suspend(|| complain(text)),
            Display::Terminal(None) | Display::Plain(_) | Display::Json => complain(text),
        }
    }

    /// Writes the result in a line that stays. JSON mode writes nothing, because its lines contain the result already.
    pub(crate) fn result(&mut self, text: &str) {
        self.clear();
        match self {
            Display::Terminal(_) | Display::Plain(_) => say(text),
            Display::Json => {}
        }
    }

    /// Writes a result that no line of JSON contains: in JSON mode it is a note on stderr.
    pub(crate) fn announce(&mut self, text: &str) {
        match self {
            Display::Terminal(_) | Display::Plain(_) => self.result(text),
            Display::Json => self.note(text),
        }
    }

    /// Removes the line that changes, before anything else is written.
    pub(crate) fn clear(&mut self) {
        if let Display::Terminal(moving) = self
            && let Some(moving) = moving.take()
        {
            moving.bar.finish_and_clear();
        }
    }
}

/// The line that changes: empty until it has a message.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{spinner} {wide_msg}") {
        Ok(style) => bar.with_style(style),
        // The template is valid; an invalid template would be no reason to end the program.
        Err(_) => bar,
    }
}

/// The current step, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A step that ends when its work is done.
    Until(String),
    /// A step that ends after this time.
    For(String, Duration),
    /// A step that has no duration of its own.
    Now(&'static str),
    /// The number of connections that are left.
    Draining(u64),
}

impl Step {
    /// The step for an event; `None` if the event tells people nothing new.
    fn of(progress: &Progress) -> Option<Step> {
        Some(match progress {
            Progress::Phase { generation, phase, .. } => match phase {
                // The checks before and after the start take a few milliseconds, and are reported only if they fail.
                Phase::Preflight | Phase::Starting | Phase::Verifying => {
                    Step::Until(format!("starting generation {generation}"))
                }
                // The next event tells more: the step of the canary or the soak, with its time; the outcome; the number
                // of connections that are left.
                Phase::Canary | Phase::Soaking | Phase::RollingBack | Phase::Retiring | Phase::Draining => return None,
                Phase::CuttingOver => Step::Now("cut over"),
                other => Step::Until(other.to_string()),
            },
            Progress::Canary { share, time, .. } => Step::For(format!("canary {share}"), *time),
            Progress::Soak { time, .. } => Step::For("soaking".to_owned(), *time),
            Progress::Draining { connections, .. } => Step::Draining(*connections),
            _ => return None,
        })
    }

    /// Whether this step is worth another line, this long after the line for `before`.
    fn is_news_after(&self, before: &Step, time: Duration) -> bool {
        let counts_on = matches!(self, Step::Draining(_)) && discriminant(self) == discriminant(before);
        self != before && (!counts_on || time >= RECOUNT)
    }

    /// The step as a line that stays.
    fn plain(&self) -> String {
        match self {
            Step::Until(what) => what.clone(),
            Step::Now(what) => (*what).to_owned(),
            Step::Draining(connections) => format!("draining {}", format::connections(*connections)),
            Step::For(what, time) if *time < Duration::from_secs(1) => format!("{what} for {}", format::time(*time)),
            Step::For(what, time) => format!("{what} for {}", format::left(*time)),
        }
    }

    /// The step as a line that changes, this long after the step began.
    fn moving(&self, since: Duration) -> String {
        match self {
            Step::Now(_) | Step::Draining(_) => self.plain(),
            Step::Until(what) if since < Duration::from_secs(1) => what.clone(),
            Step::Until(what) => format!("{what} for {}", format::time(Duration::from_secs(since.as_secs()))),
            Step::For(what, time) => format!("{what} for {} more", format::left(time.saturating_sub(since))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(line: &str) -> Option<Step> {
        Step::of(&serde_json::from_str(line).expect("a line"))
    }

    #[test]
    fn each_step_has_its_words() {
        for (line, plain, after_3_s) in [
            (
                r#"{"event":"phase","generation":2,"phase":"starting","elapsed":0.01}"#,
                "starting generation 2",
                "starting generation 2 for 3 s",
            ),
            (r#"{"event":"phase","generation":2,"phase":"probing","elapsed":0.01}"#, "probing", "probing for 3 s"),
            (r#"{"event":"canary","share":5,"seconds":15}"#, "canary 5 % for 15 s", "canary 5 % for 12 s more"),
            (r#"{"event":"phase","generation":2,"phase":"cutting_over","elapsed":1}"#, "cut over", "cut over"),
            (r#"{"event":"soak","seconds":2}"#, "soaking for 2 s", "soaking for 0 s more"),
            (r#"{"event":"soak","seconds":0.3}"#, "soaking for 300 ms", "soaking for 0 s more"),
            (r#"{"event":"draining","connections":37}"#, "draining 37 connections", "draining 37 connections"),
        ] {
            let step = step(line).expect(line);
            assert_eq!(step.plain(), plain);
            assert_eq!(step.moving(Duration::from_secs(3)), after_3_s);
        }
    }

    #[test]
    fn what_lasts_for_milliseconds_makes_no_line_of_its_own() {
        let of = |phase| step(&format!(r#"{{"event":"phase","generation":2,"phase":"{phase}","elapsed":1}}"#));
        assert_eq!(of("preflight"), of("starting"));
        assert_eq!(of("verifying"), of("starting"));
    }

    #[test]
    fn a_count_that_changes_all_the_time_is_no_news_all_the_time() {
        let (two, one) = (Step::Draining(2), Step::Draining(1));
        assert!(two.is_news_after(&Step::Now("cut over"), Duration::ZERO));
        assert!(!one.is_news_after(&two, Duration::from_secs(9)));
        assert!(one.is_news_after(&two, Duration::from_secs(10)));
        assert!(!one.is_news_after(&one, Duration::from_secs(10)));
    }

    #[test]
    fn what_is_told_next_with_its_time_is_not_told_twice() {
        for line in [
            r#"{"event":"phase","generation":2,"phase":"canary","elapsed":1}"#,
            r#"{"event":"phase","generation":2,"phase":"soaking","elapsed":1}"#,
            r#"{"event":"phase","generation":2,"phase":"rolling_back","elapsed":1}"#,
            r#"{"event":"phase","generation":2,"phase":"retiring","elapsed":1}"#,
            r#"{"event":"phase","generation":2,"phase":"draining","elapsed":1}"#,
            r#"{"event":"gone"}"#,
            r#"{"event":"of a later version"}"#,
        ] {
            assert_eq!(step(line), None, "{line}");
        }
    }
}
