use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::Quantity;

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally long.
    Linear,
    /// Equal ratios are equally long; ticks at powers of ten and their simple multiples.
    Log,
    /// Equal ratios are equally long; ticks at powers of two.
    Log2,
}

/// One axis of a [`Plot`](super::Plot).
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it shows, with the unit unless the ticks carry it.
    pub label: String,
    /// Its scale.
    pub scale: Scale,
    /// How its ticks are written.
    pub quantity: Quantity,
    /// Whether a linear axis begins at 0.
    pub from_zero: bool,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: impl Into<String>, quantity: Quantity) -> Self {
        Self { label: label.into(), scale: Scale::Linear, quantity, from_zero: false }
    }

    /// A logarithmic axis with decimal ticks.
    pub fn log(label: impl Into<String>, quantity: Quantity) -> Self {
        Self { label: label.into(), scale: Scale::Log, quantity, from_zero: false }
    }

    /// A logarithmic axis with binary ticks.
    pub fn log2(label: impl Into<String>, quantity: Quantity) -> Self {
        Self { label: label.into(), scale: Scale::Log2, quantity, from_zero: false }
    }

    /// The same axis, beginning at 0.
    #[must_use]
    pub fn zero(self) -> Self {
        Self { from_zero: true, ..self }
    }

    /// Whether the axis can show the value.
    pub(super) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    /// The coordinate that holds all `values` it can show, with a little room around them and about `ticks` ticks.
    pub(super) fn coordinate(&self, values: impl Iterator<Item = f64>, ticks: usize) -> Coordinate {
        let (mut low, mut high) =
            values.filter(|v| self.shows(*v)).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = if self.scale == Scale::Linear { (0.0, 1.0) } else { (1.0, 10.0) };
        }
        match self.scale {
            Scale::Linear => {
                low = if self.from_zero { low.min(0.0) } else { low };
                if (high - low) <= f64::EPSILON * high.abs().max(low.abs()) {
                    let room = if high == 0.0 { 1.0 } else { 0.1 * high.abs() };
                    (low, high) = (low - room, high + room);
                }
                let room = 0.04 * (high - low);
                let low = if self.from_zero && low >= 0.0 { 0.0 } else { low - room };
                self.with_ticks(low..high + room, linear_ticks(low, high + room, ticks))
            }
            Scale::Log | Scale::Log2 => {
                let room = ((high / low).log10() * 0.04).max(0.04);
                let (low, high) = (low / 10f64.powf(room), high * 10f64.powf(room));
                let marks = if self.scale == Scale::Log { decimal_ticks(low, high, ticks) } else { binary_ticks(low, high, ticks + 2) };
                self.with_ticks(low..high, marks)
            }
        }
    }

    fn with_ticks(&self, range: Range<f64>, ticks: Vec<f64>) -> Coordinate {
        Coordinate { log: self.scale != Scale::Linear, quantity: self.quantity, range, ticks }
    }
}

/// Ticks at a step of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(10.0 * power);
    let [first, last] = [(low / step).ceil() as i64, (high / step).floor() as i64];
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of ten, every n-th if there are many, with 2 and 5 between them if there are few.
fn decimal_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let within = |t: &f64| *t >= low && *t <= high;
    let with = |multiples: &[f64]| -> Vec<f64> {
        (first..=last).flat_map(|e| multiples.iter().map(move |m| m * 10f64.powi(e))).filter(within).collect()
    };
    let decades = with(&[1.0]);
    if decades.len() > count {
        let every = decades.len().div_ceil(count);
        return decades.into_iter().step_by(every).collect();
    }
    let finer = [with(&[1.0, 2.0, 5.0]), with(&[1.0, 3.0])].into_iter().find(|t| t.len() <= count + 1 && t.len() >= 3);
    match finer {
        Some(ticks) => ticks,
        None if decades.len() >= 2 => decades,
        None => linear_ticks(low, high, count).into_iter().filter(|t| *t > 0.0).collect(),
    }
}

/// Powers of two, every n-th if there are many.
fn binary_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let (first, last) = (low.log2().ceil() as i32, high.log2().floor() as i32);
    let every = ((last - first + 1).max(1) as usize).div_ceil(count);
    (first..=last).step_by(every.max(1)).map(|e| 2f64.powi(e)).collect()
}

/// An axis with its range and ticks: a coordinate of `plotters`.
#[derive(Clone, Debug)]
pub(super) struct Coordinate {
    log: bool,
    quantity: Quantity,
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Coordinate {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = |v: f64| if self.log { v.ln() } else { v };
        let (low, high) = (place(self.range.start), place(self.range.end));
        let share = (place(*value) - low) / (high - low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Coordinate {
    fn format_ext(&self, value: &f64) -> String {
        // Rounding errors of the steps must not show as 0.30000000000000004.
        self.quantity.text(if value.abs() < 1e-12 { 0.0 } else { *value }, 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(axis: &Axis, values: &[f64]) -> Vec<String> {
        let c = axis.coordinate(values.iter().copied(), 6);
        c.ticks.iter().map(|t| c.format_ext(t)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        assert_eq!(ticks(&Axis::linear("", Quantity::Plain), &[1.52, 2.97]), ["1.5", "2", "2.5", "3"]);
        assert_eq!(ticks(&Axis::linear("", Quantity::Count).zero(), &[10.0, 50_000.0]), ["0", "10k", "20k", "30k", "40k", "50k"]);
        assert_eq!(ticks(&Axis::log2("", Quantity::Length), &[512.0, 8192.0]), ["512", "1k", "2k", "4k", "8k"]);
        assert_eq!(ticks(&Axis::log("", Quantity::Seconds), &[0.002, 3.0]), ["3 ms", "10 ms", "30 ms", "100 ms", "300 ms", "1 s", "3 s"]);
        assert_eq!(ticks(&Axis::log("", Quantity::Seconds), &[0.002, 0.03]), ["2 ms", "5 ms", "10 ms", "20 ms"]);
    }

    #[test]
    fn an_axis_without_values_or_with_a_single_one_has_a_range() {
        for axis in [Axis::linear("", Quantity::Plain), Axis::log("", Quantity::Plain), Axis::log2("", Quantity::Plain)] {
            for values in [&[][..], &[3.0], &[f64::NAN], &[0.0]] {
                let range = axis.coordinate(values.iter().copied(), 5).range;
                assert!(range.start < range.end && range.start.is_finite() && range.end.is_finite(), "{axis:?} over {values:?}");
            }
        }
    }
}
