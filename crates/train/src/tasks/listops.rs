use rand::{Rng, RngExt};
use regard_models::{EncoderInput, Head};
use serde::{Deserialize, Serialize};

use super::{
    examples::{Examples, Form, FormInput, Source},
    generator,
};
use crate::{Error, Result, Split};

/// Nested lists of digits under operators, to be evaluated (Nangia and Bowman 2018, arXiv 1804.06028), as the Long Range Arena draws them
/// (Tay et al. 2020, arXiv 2011.04006): `[MAX 2 9 [MIN 4 7 ] 0 ]` is 9. The operators are minimum, maximum, median (rounded down) and
/// sum modulo 10; a node is a list with probability 1/4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListOpsConfig {
    /// Tokens of the shortest expression.
    #[serde(default = "default_min_length")]
    pub min_length: usize,
    /// Tokens of the longest expression, and of the sequences that are padded to it.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Deepest nesting, a digit alone being 1.
    #[serde(default = "default_depth")]
    pub depth: usize,
    /// Most arguments of an operator.
    #[serde(default = "default_arguments")]
    pub arguments: usize,
}

fn default_min_length() -> usize {
    10
}

fn default_max_length() -> usize {
    200
}

fn default_depth() -> usize {
    4
}

fn default_arguments() -> usize {
    10
}

impl Default for ListOpsConfig {
    fn default() -> Self {
        Self { min_length: default_min_length(), max_length: default_max_length(), depth: default_depth(), arguments: default_arguments() }
    }
}

/// Tokens: 0 is padding, 1 to 10 the digits, then the operators, then the end of a list.
const DIGIT: u32 = 1;
const OPERATOR: u32 = 11;
const END: u32 = 15;
const VOCAB: usize = 16;
/// Probability that a node is a list.
const LIST: f64 = 0.25;
/// Draws after which lengths are given up as too rare.
const PATIENCE: usize = 200_000;

/// The generator of the task.
#[derive(Clone, Debug)]
pub struct ListOps {
    config: ListOpsConfig,
}

impl ListOps {
    /// # Errors
    /// If expressions of these lengths are impossible or hardly ever drawn.
    pub(super) fn new(config: &ListOpsConfig) -> Result<Self> {
        if config.arguments < 2 {
            return Err(Error::value("task.arguments", "at least 2", config.arguments));
        }
        if config.depth < 2 {
            return Err(Error::value("task.depth", "at least 2", config.depth));
        }
        if config.max_length < config.min_length.max(4) {
            return Err(Error::value("task.max_length", format!("at least {}", config.min_length.max(4)), config.max_length));
        }
        let this = Self { config: config.clone() };
        let mut generator = generator(0, 0);
        if (0..PATIENCE).any(|_| this.try_draw(&mut generator).is_some()) {
            return Ok(this);
        }
        let want = format!("such that lists of depth {} with up to {} arguments reach it", config.depth, config.arguments);
        Err(Error::value("task.min_length", want, config.min_length))
    }

    /// An expression and its value, unless its length is none of the wanted.
    fn try_draw(&self, generator: &mut impl Rng) -> Option<(Vec<u32>, u32)> {
        let mut tokens = Vec::new();
        let value = self.node(1, generator, &mut tokens)?;
        (tokens.len() >= self.config.min_length).then_some((tokens, value))
    }

    /// Draws a node; nothing if the expression has become too long.
    fn node(&self, depth: usize, generator: &mut impl Rng, tokens: &mut Vec<u32>) -> Option<u32> {
        if depth >= self.config.depth || generator.random::<f64>() > LIST {
            let digit = generator.random_range(0..10);
            tokens.push(DIGIT + digit);
            return (tokens.len() <= self.config.max_length).then_some(digit);
        }
        let operator = generator.random_range(0..4);
        tokens.push(OPERATOR + operator);
        let count = generator.random_range(2..=self.config.arguments);
        let values = (0..count).map(|_| self.node(depth + 1, generator, tokens)).collect::<Option<Vec<_>>>()?;
        tokens.push(END);
        (tokens.len() <= self.config.max_length).then(|| apply(operator, values))
    }
}

fn apply(operator: u32, mut values: Vec<u32>) -> u32 {
    values.sort_unstable();
    let middle = values.len() / 2;
    match operator {
        0 => values[0],
        1 => values[values.len() - 1],
        2 if values.len().is_multiple_of(2) => u32::midpoint(values[middle - 1], values[middle]),
        2 => values[middle],
        _ => values.iter().sum::<u32>() % 10,
    }
}

impl Source for ListOps {
    fn form(&self) -> Form {
        let input = FormInput::Steps { input: EncoderInput::Tokens { vocab: VOCAB }, length: self.config.max_length };
        Form { input, head: Head::Classes { classes: 10 } }
    }

    fn none(&self) -> Examples {
        Examples::none(&self.form(), true, false)
    }

    fn count(&self, _: Split) -> Result<Option<usize>> {
        Ok(None)
    }

    fn push(&self, _: Split, seed: u64, number: u64, examples: &mut Examples) {
        let mut generator = generator(seed, number);
        let (tokens, value) = std::iter::repeat_with(|| self.try_draw(&mut generator)).flatten().next().expect("the draws never end");
        examples.push_tokens(&tokens, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::examples::{Inputs, Targets};

    /// Evaluates tokens from their text, as a reader would.
    fn evaluate(tokens: &mut std::slice::Iter<'_, u32>) -> u32 {
        match *tokens.next().unwrap() {
            token @ 1..=10 => token - 1,
            operator => {
                let mut values = Vec::new();
                while tokens.as_slice()[0] != END {
                    values.push(evaluate(tokens));
                }
                tokens.next();
                match operator {
                    11 => *values.iter().min().unwrap(),
                    12 => *values.iter().max().unwrap(),
                    13 => {
                        values.sort_unstable();
                        let n = values.len();
                        u32::midpoint(values[(n - 1) / 2], values[n / 2])
                    }
                    14 => values.iter().sum::<u32>() % 10,
                    other => panic!("token {other}"),
                }
            }
        }
    }

    #[test]
    fn the_class_is_the_value_of_the_expression() {
        let task = ListOps::new(&ListOpsConfig::default()).unwrap();
        let batches = task.evaluation(Split::Valid, 300, 64).unwrap();
        let mut seen = [0; 10];
        for batch in &batches {
            let (Inputs::Tokens(ids), Targets::Classes(classes)) = (&batch.inputs, &batch.targets) else { unreachable!() };
            let lengths = batch.lengths.as_ref().unwrap();
            for (row, (&length, &class)) in lengths.iter().zip(classes).enumerate() {
                let (tokens, rest) = ids[row * 200..(row + 1) * 200].split_at(length);
                assert!((10..=200).contains(&length) && rest.iter().all(|t| *t == 0));
                let mut left = tokens.iter();
                assert_eq!(evaluate(&mut left), class);
                assert_eq!(left.len(), 0, "one expression");
                let depth = tokens.iter().scan(0_i32, |d, t| {
                    *d += i32::from((11..15).contains(t)) - i32::from(*t == END);
                    Some(*d)
                });
                assert!(depth.max().unwrap() <= 3);
                seen[class as usize] += 1;
            }
        }
        assert_eq!(seen.iter().sum::<usize>(), 300);
        assert!(seen.iter().all(|n| *n > 5), "{seen:?}");
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        let message = |config| ListOps::new(&config).unwrap_err().to_string();
        let base = ListOpsConfig::default();
        assert_eq!(message(ListOpsConfig { max_length: 9, ..base.clone() }), "`task.max_length` must be at least 10, got 9");
        assert_eq!(message(ListOpsConfig { depth: 1, ..base.clone() }), "`task.depth` must be at least 2, got 1");
        assert_eq!(message(ListOpsConfig { arguments: 1, ..base.clone() }), "`task.arguments` must be at least 2, got 1");
        let shallow = ListOpsConfig { depth: 2, min_length: 13, ..base };
        assert!(message(shallow).starts_with("`task.min_length` must be such that lists of depth 2"));
    }
}
