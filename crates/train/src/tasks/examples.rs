use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use regard_models::{EncoderInput, Head};

use super::Order;
use crate::{Result, Split};

/// What examples hold, one after another.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// Tokens, `T` an example.
    Tokens(Vec<u32>),
    /// Numbers, as many an example as its shape says.
    Numbers(Vec<f32>),
}

/// What is asked about examples, one after another.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// The class of each.
    Classes(Vec<u32>),
    /// How much of each is of every class.
    Shares {
        /// The shares, `classes` an example, which sum to 1.
        values: Vec<f32>,
        /// Number of classes.
        classes: usize,
    },
    /// Numbers, those of `shape` for each.
    Numbers {
        /// The numbers.
        values: Vec<f32>,
        /// Rows and columns of an example.
        shape: [usize; 2],
        /// Which rows are asked for; all, if nothing is here.
        asked: Option<Vec<bool>>,
    },
}

/// Examples of one form, each with what is asked about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Examples {
    /// What they hold.
    pub inputs: Inputs,
    /// The shape of one: `[T]` for tokens, `[T, width]` for series, `[C, Y, X]` for images.
    pub shape: Vec<usize>,
    /// Steps of each before the padding at its end, if they differ.
    pub lengths: Option<Vec<usize>>,
    /// What is asked.
    pub targets: Targets,
    /// Number of examples B.
    pub count: usize,
}

impl Examples {
    /// None yet, of this form; with an `asked` of rows or without.
    pub(super) fn none(form: &Form, padded: bool, asked: bool) -> Self {
        let (inputs, shape) = match form.input {
            FormInput::Steps { input: EncoderInput::Tokens { .. }, length } => (Inputs::Tokens(Vec::new()), vec![length]),
            FormInput::Steps { input: EncoderInput::Numbers { width }, length } => (Inputs::Numbers(Vec::new()), vec![length, width]),
            FormInput::Image { channels, height, width } => (Inputs::Numbers(Vec::new()), vec![channels, height, width]),
        };
        let targets = match (form.head, form.input) {
            (Head::Classes { .. }, _) => Targets::Classes(Vec::new()),
            (Head::Each { outputs }, _) => Targets::Numbers { values: Vec::new(), shape: [shape[0], outputs], asked: asked.then(Vec::new) },
            (Head::Forecast { horizon }, _) => {
                Targets::Numbers { values: Vec::new(), shape: [horizon, shape[1]], asked: asked.then(Vec::new) }
            }
        };
        Self { inputs, shape, lengths: padded.then(Vec::new), targets, count: 0 }
    }

    pub(super) fn push_tokens(&mut self, tokens: &[u32], class: u32) {
        let length = self.shape[0];
        if let Inputs::Tokens(ids) = &mut self.inputs {
            ids.extend(tokens);
            ids.resize((self.count + 1) * length, 0);
        }
        if let Some(lengths) = &mut self.lengths {
            lengths.push(tokens.len());
        }
        if let Targets::Classes(classes) = &mut self.targets {
            classes.push(class);
        }
        self.count += 1;
    }

    pub(super) fn push_numbers(&mut self, numbers: impl IntoIterator<Item = f32>, class: u32) {
        if let Inputs::Numbers(values) = &mut self.inputs {
            values.extend(numbers);
        }
        if let Targets::Classes(classes) = &mut self.targets {
            classes.push(class);
        }
        self.count += 1;
    }

    /// Adds an image with the shares of some classes in it, the share `smoothing` of which is spread over all.
    pub(super) fn push_shares(&mut self, shares: &[(u8, f32)], smoothing: f32) {
        if let Targets::Shares { values, classes } = &mut self.targets {
            let first = values.len();
            values.resize(first + *classes, smoothing / *classes as f32);
            for (class, share) in shares {
                values[first + usize::from(*class)] += (1.0 - smoothing) * share;
            }
        }
    }

    pub(super) fn push_regression(&mut self, numbers: &[f32], wanted: &[f32], rows: &[bool]) {
        if let Inputs::Numbers(values) = &mut self.inputs {
            values.extend(numbers);
        }
        if let Targets::Numbers { values, asked, .. } = &mut self.targets {
            values.extend(wanted);
            if let Some(asked) = asked {
                asked.extend(rows);
            }
        }
        self.count += 1;
    }

    fn whole_shape<const N: usize>(&self) -> [usize; N] {
        let mut shape = [self.count; N];
        shape[1..].copy_from_slice(&self.shape);
        shape
    }

    /// The tokens, `[B, T]`, if it is tokens that they hold.
    pub fn tokens(&self, device: &Device) -> Option<Tensor<2, Int>> {
        let Inputs::Tokens(ids) = &self.inputs else { return None };
        let ids: Vec<i32> = ids.iter().map(|&id| id.cast_signed()).collect();
        Some(Tensor::from_data(TensorData::new(ids, self.whole_shape::<2>()), device))
    }

    /// The numbers, `[B, T, width]` of series and `[B, C, Y, X]` of images, if it is such that they hold.
    pub fn numbers<const N: usize>(&self, device: &Device) -> Option<Tensor<N>> {
        match &self.inputs {
            Inputs::Numbers(values) if self.shape.len() + 1 == N => {
                Some(Tensor::from_data(TensorData::new(values.clone(), self.whole_shape::<N>()), device))
            }
            _ => None,
        }
    }

    /// What is padding, `[B, T]`, `true` = not a step; nothing where no example is shorter than another.
    pub fn padding(&self, device: &Device) -> Option<Tensor<2, Bool>> {
        let steps = self.shape[0];
        let lengths = self.lengths.as_ref().filter(|lengths| lengths.iter().any(|l| *l < steps))?;
        let hidden: Vec<bool> = lengths.iter().flat_map(|length| (0..steps).map(move |t| t >= *length)).collect();
        Some(Tensor::from_data(TensorData::new(hidden, [self.count, steps]), device))
    }
}

/// What an example of a task looks like: what a model for it reads and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// What it reads.
    pub input: FormInput,
    /// What it answers.
    pub head: Head,
}

/// See [`Form::input`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormInput {
    /// A sequence.
    Steps {
        /// What each step is.
        input: EncoderInput,
        /// Steps T of the longest.
        length: usize,
    },
    /// An image.
    Image {
        /// Channels C.
        channels: usize,
        /// Rows Y.
        height: usize,
        /// Columns X.
        width: usize,
    },
}

/// Where the examples of a task come from.
pub(super) trait Source {
    fn form(&self) -> Form;

    /// No example yet.
    fn none(&self) -> Examples {
        Examples::none(&self.form(), false, false)
    }

    /// Number of examples of a split; nothing if there are as many as one likes.
    fn count(&self, split: Split) -> Result<Option<usize>>;

    /// Adds an example: that of the number in the split, or drawn from seed and number.
    fn push(&self, split: Split, seed: u64, number: u64, examples: &mut Examples);

    /// The training examples of these numbers: all of a finite set come once before one comes again, in another order each time.
    fn batch(&self, order: &Order, numbers: impl Iterator<Item = u64>) -> Examples
    where
        Self: Sized,
    {
        let count = self.count(Split::Train).ok().flatten();
        let mut examples = self.none();
        for number in numbers {
            let number = count.map_or(number, |count| shuffled(order.seed, number, count as u64));
            self.push(Split::Train, order.seed, number, &mut examples);
        }
        examples
    }

    /// `wanted` examples of a split, or all if it has fewer, in batches; spread over a finite set. Generators draw from seeds of their own
    /// for each split, that no training has.
    fn evaluation(&self, split: Split, wanted: usize, batch: usize) -> Result<Vec<Examples>>
    where
        Self: Sized,
    {
        let count = self.count(split)?;
        let wanted = count.map_or(wanted, |count| wanted.min(count)).max(1);
        let at = |n: usize| count.map_or(n as u64, |count| (n as u128 * count as u128 / wanted as u128) as u64);
        let batches = (0..wanted).step_by(batch).map(|first| {
            let mut examples = self.none();
            for n in first..wanted.min(first + batch) {
                self.push(split, u64::MAX - split as u64, at(n), &mut examples);
            }
            examples
        });
        Ok(batches.collect())
    }
}

/// Entry `number` of an endless list: the numbers below `count` in some order, then again in another, and so on. Computed from the three
/// numbers alone, by a Feistel network over the next power of four, walked until it hits the range.
pub(crate) fn shuffled(seed: u64, number: u64, count: u64) -> u64 {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let (epoch, mut at) = (number / count, number % count);
    let half = (count.max(2) - 1).ilog2() / 2 + 1;
    let mask = (1_u64 << half) - 1;
    let key = mix(seed ^ mix(epoch.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..4_u64 {
            (left, right) = (right, left ^ (mix(right ^ key.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15))) & mask));
        }
        at = (left << half) | right;
        if at < count {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_comes_once_in_each_epoch_and_in_another_order() {
        for count in [1, 2, 3, 10, 64, 1000] {
            let epoch = |seed, n: u64| (n * count..(n + 1) * count).map(|k| shuffled(seed, k, count)).collect::<Vec<_>>();
            let mut sorted = epoch(5, 0);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            if count >= 10 {
                assert!(epoch(5, 0) != epoch(5, 1) && epoch(5, 0) != epoch(6, 0) && epoch(5, 0) != sorted);
            }
        }
    }
}
