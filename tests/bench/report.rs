//! What a bench found: for each case and peer, the ratio of our figure to the peer's in the same round.

use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One case against one peer. A ratio above 1 means that we are better, whatever the metric.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) bench: String,
    pub(crate) case: String,
    pub(crate) metric: String,
    pub(crate) peer: String,
    /// Medians of the rounds.
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    /// The median of the rounds' ratios, and the least and greatest of them.
    pub(crate) ratio: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
    /// The 95 % interval of the median of the ratios, by their order.
    pub(crate) ratio_low: f64,
    pub(crate) ratio_high: f64,
    pub(crate) runs: usize,
}

impl Row {
    /// Makes a row of rounds: pairs of our figure and the peer's. `more_is_better` tells the metric.
    pub(crate) fn new(
        (bench, metric): (&str, &str),
        case: &str,
        peer: &str,
        rounds: &[(f64, f64)],
        more_is_better: bool,
    ) -> Row {
        let ratio = |(ours, theirs): &(f64, f64)| {
            if more_is_better {
                ours / theirs
            } else {
                theirs / ours
            }
        };
        let ratios = sorted(rounds.iter().map(ratio));
        let (low, high) = interval(&ratios);
        Row {
            bench: bench.to_owned(),
            case: case.to_owned(),
            metric: metric.to_owned(),
            peer: peer.to_owned(),
            ours: median(&sorted(rounds.iter().map(|round| round.0))),
            theirs: median(&sorted(rounds.iter().map(|round| round.1))),
            ratio: median(&ratios),
            ratio_min: ratios.first().copied().unwrap_or(f64::NAN),
            ratio_max: ratios.last().copied().unwrap_or(f64::NAN),
            ratio_low: low,
            ratio_high: high,
            runs: rounds.len(),
        }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The interval between two of the ordered values that holds the true median with at least 95 %
/// probability (binomial, one half); all of them where they are fewer than six.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len();
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return (f64::NAN, f64::NAN);
    };
    // The probability that at most `k` of `n` lie below the median.
    let mut term = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut below = term;
    let mut k = 0;
    while below <= 0.025 && k < n / 2 {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let step = (n - k) as f64 / (k + 1) as f64;
        term *= step;
        below += term;
        k += 1;
    }
    match k.checked_sub(1) {
        Some(outside) => (sorted[outside], sorted[n - 1 - outside]),
        None => (*first, *last),
    }
}

/// Prints all rows, as a table or as a list of JSON objects.
pub(crate) fn show(rows: &[Row], json: bool) -> Result<()> {
    if json {
        return crate::print(&format!("{}\n", serde_json::to_string_pretty(rows)?));
    }
    let width = |text: fn(&Row) -> &str, least: usize| {
        let longest = rows.iter().map(|row| text(row).len()).max();
        longest.unwrap_or(0).max(least)
    };
    let (case, peer) = (width(|row| &row.case, 4), width(|row| &row.peer, 4));
    let mut text = format!(
        "{:case$}  {:peer$}  {:>10}  {:>10}  {:>6}  {:>13}  {:>13}  runs  metric\n",
        "case", "peer", "ours", "theirs", "ratio", "95 %", "min to max"
    );
    for row in rows {
        let between = |low, high| format!("{low:.2} to {high:.2}");
        writeln!(
            text,
            "{:case$}  {:peer$}  {:>10.1}  {:>10.1}  {:>6.2}  {:>13}  {:>13}  {:>4}  {}",
            row.case,
            row.peer,
            row.ours,
            row.theirs,
            row.ratio,
            between(row.ratio_low, row.ratio_high),
            between(row.ratio_min, row.ratio_max),
            row.runs,
            row.metric
        )?;
    }
    crate::print(&text)
}
