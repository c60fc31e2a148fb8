use crate::{Error, Result};

/// Checks the boundaries of sequences that are packed one behind the other along the tokens of a batch of one: sequence n holds the
/// tokens `cu_seqlens[n]..cu_seqlens[n + 1]`. A sequence may be empty.
///
/// # Errors
/// Unless the batch is 1 and the boundaries rise from 0 to `tokens`.
pub(crate) fn check_cu_seqlens(op: &'static str, cu_seqlens: &[usize], batch: usize, tokens: usize) -> Result<()> {
    const ARG: &str = "cu_seqlens";
    if batch != 1 {
        return Err(Error::argument(op, ARG, "absent or the batch 1: packed sequences lie in one row", format!("a batch of {batch}")));
    }
    let rises = cu_seqlens.windows(2).all(|w| w[0] <= w[1]);
    if !rises || cu_seqlens.first() != Some(&0) || cu_seqlens.last() != Some(&tokens) {
        return Err(Error::argument(op, ARG, format!("boundaries that rise from 0 to T = {tokens}"), format!("{cu_seqlens:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_rise_from_zero_to_the_number_of_tokens() {
        assert!(check_cu_seqlens("op", &[0, 3, 3, 7], 1, 7).is_ok());
        assert!(check_cu_seqlens("op", &[0], 1, 0).is_ok());
        for wrong in [&[][..], &[1, 7], &[0, 6], &[0, 5, 4, 7]] {
            let error = check_cu_seqlens("op", wrong, 1, 7).expect_err("refused").to_string();
            assert_eq!(error, format!("op: `cu_seqlens` must be boundaries that rise from 0 to T = 7, got {wrong:?}"));
        }
        let error = check_cu_seqlens("op", &[0, 7], 2, 7).expect_err("refused").to_string();
        assert_eq!(error, "op: `cu_seqlens` must be absent or the batch 1: packed sequences lie in one row, got a batch of 2");
    }
}
