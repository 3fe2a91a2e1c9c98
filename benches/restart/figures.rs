//! Many measurements as one figure: the median and the spread.

use std::fmt;
use std::time::Duration;

/// Measurements of one quantity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    /// # Panics
    /// If there is no measurement.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        assert!(!self.0.is_empty(), "nothing was measured");
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = quantile * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        below + (above - below) * place.fract()
    }

    /// Median and quartiles, with `digits` decimal places.
    pub(crate) fn quartiles(&self, digits: usize) -> String {
        self.show(digits, 0.25, 0.75)
    }

    /// Median, minimum and maximum, with `digits` decimal places.
    pub(crate) fn range(&self, digits: usize) -> String {
        self.show(digits, 0.0, 1.0)
    }

    fn show(&self, digits: usize, from: f64, to: f64) -> String {
        let [middle, from, to] = [0.5, from, to].map(|quantile| grouped(self.quantile(quantile), digits));
        format!("{middle} ({from}..{to})")
    }

    /// The ratio of each measurement to the one in `to` of the same round.
    pub(crate) fn ratios(&self, to: &Figures) -> Figures {
        self.0.iter().zip(&to.0).map(|(this, other)| this / other).collect()
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<T: IntoIterator<Item = f64>>(figures: T) -> Figures {
        Figures(figures.into_iter().collect())
    }
}

/// Converts each duration to milliseconds.
impl FromIterator<Duration> for Figures {
    fn from_iter<T: IntoIterator<Item = Duration>>(durations: T) -> Figures {
        durations.into_iter().map(|duration| duration.as_secs_f64() * 1e3).collect()
    }
}

/// The number as text, with a comma as thousands separator.
pub(crate) fn grouped(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

/// Prints rows with aligned columns: the first to the left, the others to the right. The first row is the header.
pub(crate) fn print_table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows {
        print!("  {:<1$}", row[0], width(0));
        for (column, text) in row.iter().enumerate().skip(1) {
            print!("  {text:>0$}", width(column));
        }
        println!();
    }
}

/// A row of a table.
pub(crate) fn row<const N: usize>(cells: [&dyn fmt::Display; N]) -> [String; N] {
    cells.map(ToString::to_string)
}
