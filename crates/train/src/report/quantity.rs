/// How the numbers of an axis or a table cell are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// As it is, with as many decimals as it needs.
    Plain,
    /// A count: 512, 1.5k, 2M.
    Count,
    /// Tokens of a sequence, in binary thousands: 512, 1k, 32k.
    Length,
    /// Bytes: 96 B, 1.5 KiB, 3 MiB.
    Bytes,
    /// Seconds: 20 µs, 3 ms, 12 s, 2 min.
    Seconds,
    /// A small factor such as a learning rate: 0.001, 3e-4.
    Scientific,
}

impl Quantity {
    /// The number as text with `digits` significant digits; trailing zeros are dropped.
    ///
    /// ```
    /// use regard_train::report::Quantity;
    ///
    /// assert_eq!(Quantity::Count.text(1_536.0, 3), "1.54k");
    /// assert_eq!(Quantity::Length.text(32_768.0, 3), "32k");
    /// assert_eq!(Quantity::Bytes.text(1_572_864.0, 3), "1.5 MiB");
    /// assert_eq!(Quantity::Seconds.text(0.0123, 2), "12 ms");
    /// ```
    pub fn text(self, value: f64, digits: usize) -> String {
        if !value.is_finite() {
            return "–".into();
        }
        match self {
            Self::Plain => significant(value, digits),
            Self::Scientific => scientific(value, digits),
            Self::Count => scaled(value, digits, 1000.0, &["", "k", "M", "G", "T"]),
            Self::Length => scaled(value, digits, 1024.0, &["", "k", "M", "G"]),
            Self::Bytes => scaled(value, digits, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"]),
            Self::Seconds => seconds(value, digits),
        }
    }
}

fn scaled(value: f64, digits: usize, base: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    // What rounds up to the base belongs to the next unit: 1023.9 KiB is 1 MiB.
    while unit + 1 < units.len() && value.abs() >= base * (1.0 - 0.5 * 10f64.powf(-(digits as f64))) {
        value /= base;
        unit += 1;
    }
    significant(value, digits) + units[unit]
}

fn seconds(value: f64, digits: usize) -> String {
    match value.abs() {
        0.0 => "0 s".into(),
        s if s < 1e-6 => significant(value * 1e9, digits) + " ns",
        s if s < 1e-3 => significant(value * 1e6, digits) + " µs",
        s if s < 1.0 => significant(value * 1e3, digits) + " ms",
        s if s < 180.0 => significant(value, digits) + " s",
        s if s < 7200.0 => significant(value / 60.0, digits) + " min",
        _ => significant(value / 3600.0, digits) + " h",
    }
}

fn scientific(value: f64, digits: usize) -> String {
    if value == 0.0 || (1e-3..1e4).contains(&value.abs()) {
        return significant(value, digits);
    }
    let text = format!("{value:.*e}", digits.saturating_sub(1));
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trimmed(mantissa)),
        None => text,
    }
}

fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let decimals = (digits as f64 - 1.0 - value.abs().log10().floor()).max(0.0) as usize;
    trimmed(&format!("{value:.decimals$}")).into()
}

fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn numbers_are_written_in_the_unit_that_fits() {
        let cases = [
            (Quantity::Plain, 1.868_12, 4, "1.868"),
            (Quantity::Plain, 0.0, 3, "0"),
            (Quantity::Plain, -2.5, 3, "-2.5"),
            (Quantity::Count, 999.0, 3, "999"),
            (Quantity::Count, 1_000_000.0, 3, "1M"),
            (Quantity::Length, 512.0, 3, "512"),
            (Quantity::Length, 1024.0, 3, "1k"),
            (Quantity::Bytes, 1023.99 * 1024.0, 3, "1 MiB"),
            (Quantity::Bytes, 96.0, 3, "96 B"),
            (Quantity::Seconds, 2.5e-5, 2, "25 µs"),
            (Quantity::Seconds, 300.0, 3, "5 min"),
            (Quantity::Scientific, 3e-4, 2, "3e-4"),
            (Quantity::Scientific, 0.001, 2, "0.001"),
            (Quantity::Plain, f64::NAN, 2, "–"),
        ];
        for (quantity, value, digits, want) in cases {
            assert_eq!(quantity.text(value, digits), want, "{quantity:?} of {value}");
        }
    }
}
