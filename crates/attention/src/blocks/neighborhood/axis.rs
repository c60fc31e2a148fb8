use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the neighbourhood of a token is formed along one axis of a grid. The neighbourhood is the product of those of the axes.
///
/// Along an axis of length L, token x belongs to the dilation group `x mod d`, at the position `p = x div d` of
/// `n = ⌈(L − x mod d) / d⌉`, and sees positions of its group alone. With all divisions rounded down:
/// - not causal: the leader is `t = min((p/s)·s + s/2, n − 1)`, the centre `m = clamp(t, k/2, n − 1 − (k−1)/2)`, the window
///   `m − k/2 ..= m + (k−1)/2`: always k positions, shifted at the borders and not cut;
/// - causal: the leader is `t = min((p/s)·s + s − 1, n − 1)`, the window `max(0, t − k + 1) ..= p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowAxis {
    /// Positions k of a window, at least 1. An even window has one more position before its centre than behind it.
    pub window: usize,
    /// Stride s: as many positions in a row share one window. From 1 to k; k gives blocks.
    #[serde(default = "one")]
    pub stride: usize,
    /// Distance d of neighbours, at least 1; k·d may not exceed the axis.
    #[serde(default = "one")]
    pub dilation: usize,
    /// Whether a token sees no position behind its own.
    #[serde(default)]
    pub causal: bool,
}

fn one() -> usize {
    1
}

impl WindowAxis {
    /// A window of k positions around each token, neither strided nor dilated nor causal.
    pub fn new(window: usize) -> Self {
        Self { window, stride: 1, dilation: 1, causal: false }
    }

    /// Blocks of k positions, each of which sees itself.
    pub fn blocks(window: usize) -> Self {
        Self { stride: window, ..Self::new(window) }
    }

    /// The positions that position `p` of a group of `length` sees.
    pub(crate) fn seen(&self, p: usize, length: usize) -> Range<usize> {
        let Self { window, stride, causal, .. } = *self;
        let block = p / stride * stride;
        if causal {
            let leader = (block + stride - 1).min(length - 1);
            return (leader + 1).saturating_sub(window)..p + 1;
        }
        let (before, behind) = (window / 2, (window - 1) / 2);
        let centre = (block + stride / 2).min(length - 1).clamp(before, length - 1 - behind);
        centre - before..centre + behind + 1
    }

    /// Whether the rule is defined along an axis, the one of number `axis`, of this length.
    pub(crate) fn check(&self, op: &'static str, axis: usize, length: usize) -> Result<()> {
        let Self { window, stride, dilation, .. } = *self;
        for (arg, size) in [("window", window), ("stride", stride), ("dilation", dilation)] {
            if size == 0 {
                return Err(Error::argument(op, arg, format!("at least 1 along axis {axis}"), size));
            }
        }
        if stride > window {
            return Err(Error::argument(op, "stride", format!("at most the window = {window} along axis {axis}"), stride));
        }
        if window.checked_mul(dilation).is_none_or(|reach| reach > length) {
            let want = format!("such that window · dilation is at most the length {length} of axis {axis}");
            return Err(Error::argument(op, "window", want, format!("{window} · {dilation}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use regard_testkit::sweep;

    use super::*;

    #[test]
    fn every_window_is_whole_holds_its_token_and_moves_forwards() {
        sweep("windows", 2000, |s| {
            let window = s.size(1, 12);
            let axis = WindowAxis { window, stride: s.size(1, window), dilation: 1, causal: s.flip() };
            let length = s.size(window, 40);
            let mut before = 0..0;
            for p in 0..length {
                let seen = axis.seen(p, length);
                assert!(seen.contains(&p) && seen.end <= length, "{axis:?}, {p} of {length}: {seen:?}");
                assert!(seen.start >= before.start && seen.end >= before.end, "{axis:?}, {p} of {length}: {before:?}, then {seen:?}");
                if axis.causal {
                    assert!(seen.end == p + 1 && seen.len() <= window);
                } else {
                    assert_eq!(seen.len(), window, "{axis:?}, {p} of {length}");
                }
                before = seen;
            }
        });
    }

    #[test]
    fn the_examples_of_the_paper_hold() {
        let plain = WindowAxis::new(3);
        assert_eq!([0, 1, 2, 3].map(|p| plain.seen(p, 4)), [0..3, 0..3, 1..4, 1..4]);
        let causal = WindowAxis { causal: true, ..plain };
        assert_eq!([0, 1, 2, 3].map(|p| causal.seen(p, 4)), [0..1, 0..2, 0..3, 1..4]);
        assert_eq!([0, 2, 3, 5].map(|p| WindowAxis::blocks(3).seen(p, 6)), [0..3, 0..3, 3..6, 3..6]);
        assert_eq!([0, 3, 7].map(|p| WindowAxis::new(4).seen(p, 8)), [0..4, 1..5, 4..8]);
    }

    #[test]
    fn what_the_rule_forbids_is_told_with_axis_and_numbers() {
        let message = |axis: WindowAxis| axis.check("op", 2, 9).unwrap_err().to_string();
        let base = WindowAxis::new(5);
        assert_eq!(message(WindowAxis { window: 0, ..base }), "op: `window` must be at least 1 along axis 2, got 0");
        assert_eq!(message(WindowAxis { stride: 0, ..base }), "op: `stride` must be at least 1 along axis 2, got 0");
        assert_eq!(message(WindowAxis { dilation: 0, ..base }), "op: `dilation` must be at least 1 along axis 2, got 0");
        assert_eq!(message(WindowAxis { stride: 6, ..base }), "op: `stride` must be at most the window = 5 along axis 2, got 6");
        let want = "op: `window` must be such that window · dilation is at most the length 9 of axis 2, got 5 · 2";
        assert_eq!(message(WindowAxis { dilation: 2, ..base }), want);
        assert!(message(WindowAxis { dilation: usize::MAX, ..base }).ends_with(&format!("got 5 · {}", usize::MAX)));
        assert_eq!(base.check("op", 2, 9), Ok(()));
    }
}
